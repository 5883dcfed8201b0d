/* What lies between nghttp2 and the flow: frames as a client may send them become messages of HTTP/1.1. Each stream's
 * bytes are read as the pipeline reads them: at most one message comes, framed by us, nothing stands behind its end,
 * and a body is the one that the frames carried. What waits is bounded, and answers of all framings are sent. */
#include PROXY_C

#define FRAMES_MAX 64
#define STREAMS_MAX 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct input {
	const uint8_t *p;
	size_t n;
};

/* What a stream gave so far, by its number. */
static struct seen {
	struct buf text, data;          /* as the pipeline reads it; the DATA that was sent */
	bool answered;
} seen[STREAMS_MAX];

static uint8_t
take(struct input *in)
{
	return in->n == 0 ? 0 : (in->n--, *in->p++);
}

/* A length, then that many bytes. */
static struct slice
take_text(struct input *in)
{
	size_t k = take(in);

	if (k > in->n)
		k = in->n;
	in->p += k;
	in->n -= k;
	return (struct slice){(const char *)in->p - k, k};
}

/* A field of HPACK: literal, never indexed, without Huffman's code (RFC 7541 6.2.3). */
static void
put_literal(struct buf *b, struct slice name, struct slice value)
{
	const char *v = value.p;
	char head[3] = {0x10, (char)(name.n & 0x3f), 0};

	buf_add(b, head, 2);
	buf_add(b, name.p, name.n & 0x3f);
	head[0] = (char)(value.n & 0x3f);
	buf_add(b, head, 1);
	buf_add(b, v, value.n & 0x3f);
}

static void
put_head(struct buf *b, struct input *in)
{
	static const struct slice names[] = {SLICE_INIT(":method"), SLICE_INIT(":scheme"), SLICE_INIT(":path"),
	    SLICE_INIT(":authority"), SLICE_INIT("host"), SLICE_INIT("cookie"), SLICE_INIT("content-length"), SLICE_INIT("te"),
	    SLICE_INIT("transfer-encoding"), SLICE_INIT("connection"), SLICE_INIT("x-a"), SLICE_INIT("expect")};
	static const struct slice values[] = {SLICE_INIT("POST"), SLICE_INIT("https"), SLICE_INIT("/a?b"),
	    SLICE_INIT("api.example"), SLICE_INIT("api.example"), SLICE_INIT("a=b"), SLICE_INIT("5"), SLICE_INIT("trailers"),
	    SLICE_INIT("chunked"), SLICE_INIT("close"), SLICE_INIT("x"), SLICE_INIT("100-continue")};
	uint8_t shape = take(in);

	for (size_t i = 0; i < 4; i++)          /* most heads are whole, so that more than refusals is reached */
		if ((shape & 0x80) == 0 || (shape >> i & 1) != 0)
			put_literal(b, names[i], i == 0 && (shape & 0x10) != 0 ? SLICE("HEAD") : values[i]);
	for (size_t i = 0; i < (shape & 7u); i++) {
		uint8_t k = take(in);
		struct slice name = k < 128 ? names[k % COUNT(names)] : take_text(in);

		put_literal(b, name, k % 2 == 0 && k < 128 ? values[k % COUNT(values)] : take_text(in));
	}
}

/* One frame of the input's. */
static void
put_frame(struct buf *b, struct input *in)
{
	static const uint8_t types[] = {NGHTTP2_HEADERS, NGHTTP2_DATA, NGHTTP2_HEADERS, NGHTTP2_DATA, NGHTTP2_RST_STREAM,
	    NGHTTP2_SETTINGS, NGHTTP2_PING, NGHTTP2_GOAWAY, NGHTTP2_WINDOW_UPDATE, NGHTTP2_CONTINUATION, NGHTTP2_PRIORITY};
	uint8_t k = take(in), flags = take(in), id = (uint8_t)(take(in) % (2 * STREAMS_MAX));
	uint8_t type = k < 220 ? types[k % COUNT(types)] : k;
	struct buf payload;
	char head[9] = {0};

	buf_init(&payload, 4096);
	if (type == NGHTTP2_HEADERS && (k & 0x40) == 0) {
		put_head(&payload, in);
		flags &= NGHTTP2_FLAG_END_STREAM;
		flags |= NGHTTP2_FLAG_END_HEADERS;
	} else {
		struct slice text = take_text(in);

		buf_addv(&payload, text);
		if (type == NGHTTP2_DATA && (k & 0x40) == 0)
			flags &= NGHTTP2_FLAG_END_STREAM;
	}
	head[1] = (char)(payload.n >> 8);
	head[2] = (char)payload.n;
	head[3] = (char)type;
	head[4] = (char)flags;
	head[8] = (char)(type == NGHTTP2_SETTINGS || type == NGHTTP2_PING || type == NGHTTP2_GOAWAY ? 0 : id);
	buf_add(b, head, 9);
	buf_addv(b, buf_slice(&payload));
	buf_free(&payload);
}

static void
stream_ready(struct watch *w)
{
	(void)w;
}

/* Reads of a stream what there is. */
static void
drain(struct stream *st, struct seen *s, size_t room)
{
	static char block[PEER_READ];
	ssize_t k;

	if (st->in.n > HTTP_HEAD_MAX + H2_WINDOW || st->trailers.n > HTTP_TRAILERS_MAX)
		abort();
	while ((k = stream_read(st->wake.peer, block, room)) > 0) {
		if ((size_t)k > room)
			abort();
		buf_add(&s->text, block, (size_t)k);
	}
}

/* At most one message, and the body is what DATA carried. `whole`: the stream was ended by its client. */
static void
h2_check(const struct seen *s, bool whole)
{
	static struct http_head h;
	struct http_chunked c = {0};
	size_t at, scanned = 0, body = 0;
	ssize_t end = http_head_end(s->text.p, s->text.n, &scanned), r;

	if (end <= 0)
		return;                 /* it is not whole, or is answered as too large */
	r = http_parse_request(s->text.p, s->text.n, &h);
	if (r == 0 || r > end)
		abort();
	if (r < 0)
		return;
	for (at = (size_t)r; at < s->text.n;) {
		struct slice piece = {s->text.p + at, s->text.n - at};
		enum chunk_event e = CHUNK_DATA;
		size_t used = piece.n;

		if (h.body == BODY_CHUNKED)
			e = http_chunked_step(&c, piece.p, piece.n, &used, &piece);
		else if (h.body == BODY_NONE || piece.n > h.length - body)
			abort();        /* the pipeline would read it as another request */
		if (e == CHUNK_BAD)
			abort();
		if (e == CHUNK_DATA) {
			if (piece.n > s->data.n - body || memcmp(piece.p, s->data.p + body, piece.n) != 0)
				abort();
			body += piece.n;
		}
		at += used;
		if (e == CHUNK_TRAILERS || e == CHUNK_END) {
			if (at != s->text.n)
				abort();
			return;
		}
		if (used == 0)
			break;
	}
	if (whole && h.body == BODY_CHUNKED && at == s->text.n && body != s->data.n)
		abort();
}

/* An answer of one of the framings that there are, and some that are none. */
static void
answer(struct stream *st, uint8_t k)
{
	static const char *const answers[] = {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
	    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: a\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
	    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
	    "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	    "HTTP/1.1 101 Switching Protocols\r\n\r\n", "HTTP/9 nonsense\r\n\r\n",
	    "HTTP/1.1 403 Forbidden\r\nX-Sallyport-Error: a\r\ngrpc-status: 7\r\nContent-Length: 0\r\n\r\n"};
	const char *text = answers[k % COUNT(answers)];

	if (peer_put(st->wake.peer, text, strlen(text)))
		stream_flush(st->wake.peer);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
	struct input in = {data, n};
	struct conn *c = calloc(1, sizeof *c);
	struct buf frame;
	struct h2 *h;
	uint8_t how = take(&in);
	bool ended[STREAMS_MAX] = {0}, reset[STREAMS_MAX] = {0};

	conn_max = 1000;
	c->at = &net.listeners[0];
	c->state = CONN_H2;
	c->tunnel = c->secure = (how & 1) != 0;
	c->port = 443;
	snprintf(c->host, sizeof c->host, "api.example");
	peer_init(&c->peer, -1, stream_ready);
	LIST_INSERT_HEAD(&conn_list, c, link);
	conn_count++;
	for (size_t i = 0; i < STREAMS_MAX; i++) {
		seen[i].answered = false;
		buf_init(&seen[i].text, 1 << 20);
		buf_init(&seen[i].data, 1 << 20);
	}
	if ((h = h2_new(&c->peer, false)) == NULL || nghttp2_session_mem_recv(h->s, (const uint8_t *)preface, sizeof preface) != sizeof preface)
		abort();
	buf_init(&frame, 8192);
	for (int i = 0; i < FRAMES_MAX && in.n != 0; i++) {
		struct stream *st, *next;
		size_t id, at;

		buf_clear(&frame);
		put_frame(&frame, &in);
		id = (uint8_t)frame.p[8] / 2;
		if (frame.p[3] == NGHTTP2_DATA && (frame.p[8] & 1) != 0 && (frame.p[4] & NGHTTP2_FLAG_PADDED) == 0)
			buf_add(&seen[id].data, frame.p + 9, frame.n - 9);
		reset[id] |= frame.p[3] == NGHTTP2_DATA && (frame.p[4] & NGHTTP2_FLAG_PADDED) != 0;
		if (nghttp2_session_mem_recv(h->s, (const uint8_t *)frame.p, frame.n) < 0)
			break;
		for (st = LIST_FIRST(&h->streams); st != NULL; st = next) {
			next = LIST_NEXT(st, link);
			if (st->wake.peer == NULL)
				continue;
			st->wake.peer->watch.ready = stream_ready;
			at = st->id != 0 ? (size_t)st->id / 2 : STREAMS_MAX;
			if (at >= STREAMS_MAX)
				continue;
			drain(st, &seen[at], 64 + (size_t)(how >> 1) * 64);
			ended[at] |= st->ended && !st->gone;
			if (!seen[at].answered && (take(&in) & 3) == 0) {
				seen[at].answered = true;
				answer(st, take(&in));
			}
		}
		loop_run_deferred();
		if (!h2_send(h))
			break;
		wirebuf_put(&c->peer.out, true);        /* the client reads it */
	}
	for (size_t i = 0; i < STREAMS_MAX; i++) {
		if (!reset[i])
			h2_check(&seen[i], ended[i]);
		buf_free(&seen[i].text);
		buf_free(&seen[i].data);
	}
	buf_free(&frame);
	while (LIST_FIRST(&conn_list) != NULL)
		conn_close(LIST_FIRST(&conn_list), true);
	loop_run_deferred();
	return 0;
}
