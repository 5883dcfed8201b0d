/* Flows: every framing, at every size of a read, with and without a filter, to a peer and to memory; what each end's
 * failure is called; and that a source waits while the destination has no room. */
#include PROXY_C
#include "guard.h"

static void
nothing(struct watch *w)
{
	(void)w;
}

/* A peer on one end of a socket pair; the other end. */
static int
peer_pair(struct peer *p)
{
	int pair[2];

	assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
	peer_init(p, pair[0], nothing);
	p->watch.readable = p->watch.writable = true;
	return pair[1];
}

static const struct flow_case {
	const char *name;
	int mode;
	uint64_t length;
	struct slice wire, body;
	enum flow_io end;
} flow_cases[] = {
	{"a body with a length, and what is behind it stays", BODY_LENGTH, 5, SLICE_INIT("helloGET /"), SLICE_INIT("hello"), FLOW_DONE},
	{"no body", BODY_NONE, 0, SLICE_INIT("GET /"), SLICE_INIT(""), FLOW_DONE},
	{"a length of zero", BODY_LENGTH, 0, SLICE_INIT("GET /"), SLICE_INIT(""), FLOW_DONE},
	{"a length that does not come", BODY_LENGTH, 9, SLICE_INIT("hello"), SLICE_INIT("hello"), FLOW_SRC_GONE},
	{"chunks", BODY_CHUNKED, 0, SLICE_INIT("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\nGET /"), SLICE_INIT("hello"), FLOW_DONE},
	{"chunks with trailers", BODY_CHUNKED, 0, SLICE_INIT("5\r\nhello\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n"), SLICE_INIT("hello"), FLOW_DONE},
	{"no chunk but the last", BODY_CHUNKED, 0, SLICE_INIT("0\r\n\r\n"), SLICE_INIT(""), FLOW_DONE},
	{"chunks that end within one", BODY_CHUNKED, 0, SLICE_INIT("5\r\nhello"), SLICE_INIT("hello"), FLOW_SRC_GONE},
	{"chunks without the last", BODY_CHUNKED, 0, SLICE_INIT("5\r\nhello\r\n"), SLICE_INIT("hello"), FLOW_SRC_GONE},
	{"a size that is none", BODY_CHUNKED, 0, SLICE_INIT("5\r\nhello\r\nx\r\n"), SLICE_INIT("hello"), FLOW_BAD},
	{"a malformed trailer", BODY_CHUNKED, 0, SLICE_INIT("5\r\nhello\r\n0\r\n: b\r\n\r\n"), SLICE_INIT("hello"), FLOW_BAD},
	{"raw bytes", BODY_EOF, 0, SLICE_INIT("hello"), SLICE_INIT("hello"), FLOW_DONE},
	{"raw bytes, none of them", BODY_EOF, 0, SLICE_INIT(""), SLICE_INIT(""), FLOW_DONE},
};

/* Through a flow to a peer, whose wire another flow reads into memory; a filter stands in the one or in the other. */
static enum flow_io
through(const struct flow_case *k, size_t step, bool chunked, struct filter *there, struct filter *back, struct buf *got)
{
	struct flow way = {.done = false}, home = {.done = false};
	struct peer src, dst, reader;
	int from = peer_pair(&src), to = peer_pair(&dst);
	enum flow_io io = FLOW_WAIT;

	flow_init(&way, &src, &dst, k->mode, k->length, chunked);
	way.filter = there;
	for (size_t at = 0; at < k->wire.n && io == FLOW_WAIT; at += step) {
		size_t n = k->wire.n - at < step ? k->wire.n - at : step;

		assert(write(from, k->wire.p + at, n) == (ssize_t)n);
		src.watch.readable = true;
		io = flow_pump(&way);
	}
	close(from);
	src.watch.readable = true;
	if (io == FLOW_WAIT)
		io = flow_pump(&way);
	if (way.done && k->length != 0 && step >= k->wire.n && k->wire.n > k->length &&
	    !slice_eq(peer_data(&src), SLICE("GET /")))
		io = FLOW_BAD;
	assert(peer_flush(&dst) == IO_OK);
	peer_close(&dst);
	peer_init(&reader, to, nothing);
	flow_init(&home, &reader, NULL, chunked ? BODY_CHUNKED : BODY_EOF, 0, false);
	home.into = got;
	home.filter = back;
	do
		reader.watch.readable = true;   /* after a short read nothing else says that the end is there */
	while (flow_pump(&home) == FLOW_WAIT);
	if (way.done && !home.done && k->mode != BODY_NONE)
		io = FLOW_BAD;
	flow_free(&way);
	flow_free(&home);
	peer_close(&src);
	peer_close(&reader);
	return io;
}

static void
test_framings(void)
{
	for (size_t i = 0; i < COUNT(flow_cases); i++) {
		const struct flow_case *k = &flow_cases[i];
		struct slice got = {"", 0};
		enum flow_io io = k->end;
		struct buf b, twice, upper;
		size_t step = 0;
		bool ok = true;
		int mode = 0;

		buf_init(&twice, 64);
		buf_init(&upper, 64);
		for (size_t j = 0; j < k->body.n; j++) {
			buf_add(&twice, (char[]){k->body.p[j], k->body.p[j]}, 2);
			buf_add(&upper, (char[]){(char)toupper(k->body.p[j])}, 1);
		}
		for (; ok && mode < 8; mode++)
			for (step = 1; ok && step <= k->wire.n + 1; step++) {
				/* a body that is known to be empty passes no filter, unless it goes out in chunks */
				bool none = k->mode == BODY_NONE || (k->mode == BODY_LENGTH && k->length == 0);
				bool chunked = mode & 1 && k->mode != BODY_NONE;

				buf_init(&b, 64);
				io = through(k, step, chunked, mode & 2 ? filter_twice_new() : NULL,
				    mode & 4 ? filter_upper_new() : NULL, &b);
				got = buf_slice(&b);
				ok = io == k->end;
				if (mode == 0 || mode == 1 || none)
					ok = ok && slice_eq(got, k->body);
				else if (mode == 2 || mode == 3)
					ok = ok && slice_eq(got, buf_slice(&twice));
				else if (mode == 4 || mode == 5)
					ok = ok && slice_eq(got, buf_slice(&upper));
				else
					ok = ok && got.n == 2 * k->body.n;
				buf_free(&b);
			}
		test_result(ok, k->name, "mode %d, reads of %zu bytes: outcome %d, %zu bytes came", mode - 1, step - 1, (int)io, got.n);
		buf_free(&twice);
		buf_free(&upper);
	}
}

/* A megabyte out of memory, to a peer that reads slowly: nothing is lost, and no more waits than has room. */
static void
test_flow_memory(void)
{
	static char text[1024 * 1024 + 1], block[64 * 1024];
	struct flow f = {.done = false};
	struct peer dst;
	int small = 4096, to = peer_pair(&dst);
	size_t all = 0, most = 0;
	enum flow_io io;
	ssize_t n;
	bool same = true;

	for (size_t i = 0; i < sizeof text; i++)
		text[i] = (char)(i * 7 + i / 251);
	setsockopt(dst.watch.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
	flow_init(&f, NULL, &dst, BODY_LENGTH, sizeof text, false);
	f.from = (struct slice){text, sizeof text};
	do {
		dst.watch.writable = true;
		io = flow_pump(&f);
		most = peer_pending(&dst) > most ? peer_pending(&dst) : most;
		while ((n = read(to, block, sizeof block)) > 0) {
			same = same && memcmp(text + all, block, (size_t)n) == 0;
			all += (size_t)n;
		}
	} while (io == FLOW_WAIT || io == FLOW_TURN || peer_pending(&dst) != 0);
	test_result(io == FLOW_DONE && all == sizeof text && same && f.moved == all && most <= PEER_OUT_HIGH + PEER_PIECE,
	    "memory to a peer that reads slowly", "%d: %zu bytes, %zu at most waited", (int)io, all, most);
	flow_free(&f);
	close(to);
	peer_close(&dst);
}

static void
test_ends(void)
{
	struct flow f = {.done = false};
	struct peer src, dst;
	struct buf b;
	int from = peer_pair(&src), to = peer_pair(&dst);

	buf_init(&b, 4);
	assert(write(from, "hello", 5) == 5);
	flow_init(&f, &src, NULL, BODY_EOF, 0, false);
	f.into = &b;
	test_result(flow_pump(&f) == FLOW_DST_GONE && f.piece.n == 5 && src.received == 0, "memory that has no room",
	    "%zu bytes were taken", (size_t)src.received);
	flow_init(&f, &src, &dst, BODY_EOF, 0, false);
	close(to);
	test_result(flow_pump(&f) == FLOW_DST_GONE, "a peer that is gone", "it is not told");
	flow_free(&f);
	buf_free(&b);
	close(from);
	peer_close(&src);
	peer_close(&dst);
}

int
main(void)
{
	signal(SIGPIPE, SIG_IGN);
	test_framings();
	test_flow_memory();
	test_ends();
	return test_end();
}
