/* A request's head as a client sends it: what is taken lies in the buffer, no part of it is taken as a whole, and
 * written down plainly it is read again as the same request. */
#include PROXY_C

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void
within(struct slice s, const char *p, size_t n)
{
	if (s.p != NULL && (s.p < p || s.n > n || (size_t)(s.p - p) > n - s.n))
		abort();
}

static void
check_head(const struct http_head *h, const char *p, size_t n)
{
	within(h->method, p, n);
	within(h->target, p, n);
	if (!slice_eq(h->path, SLICE("/")))     /* of a target without one: a constant */
		if (!slice_eq(h->path, SLICE("*")))     /* our own text, where OPTIONS names a server and no path */
		within(h->path, p, n);
	within(h->query, p, n);
	within(h->to.host, p, n);
	within(h->host.host, p, n);
	if (h->nfields > HTTP_FIELDS_MAX || h->minor < 0 || h->minor > 1)
		abort();
	for (size_t i = 0; i < h->nfields; i++) {
		within(h->field[i].name, p, n);
		within(h->field[i].value, p, n);
		if (!http_is_token(h->field[i].name) || !http_valid_field_value(h->field[i].value))
			abort();
	}
}

/* The fields as we would write them: the reader behind us agrees on target, framing and host. */
static void
check_written(const struct http_head *h)
{
	static struct http_head again;
	struct buf b;
	bool ok;

	buf_init(&b, 4 * HTTP_HEAD_MAX);
	ok = buf_addv(&b, h->method) && buf_adds(&b, " ") && buf_addv(&b, h->target) &&
	    buf_adds(&b, h->minor == 1 ? " HTTP/1.1\r\n" : " HTTP/1.0\r\n");
	for (size_t i = 0; ok && i < h->nfields; i++)
		ok = buf_addv(&b, h->field[i].name) && buf_adds(&b, ": ") && buf_addv(&b, h->field[i].value) &&
		    buf_adds(&b, "\r\n");
	if (ok && buf_adds(&b, "\r\n") && b.n <= HTTP_HEAD_MAX &&
	    (http_parse_request(b.p, b.n, &again) != (ssize_t)b.n || again.nfields != h->nfields ||
	    again.body != h->body || again.length != h->length || again.keep_alive != h->keep_alive ||
	    again.websocket != h->websocket || !slice_eq(again.host.host, h->host.host) ||
	    !slice_eq(again.path, h->path) || !slice_eq(again.query, h->query)))
		abort();
	buf_free(&b);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static struct http_head h;
	char *p = malloc(n == 0 ? 1 : n), *part;        /* exactly as long, so that ASan sees a byte too far */
	ssize_t r;
	size_t scanned = 0, k;

	if (n != 0)
		memcpy(p, data, n);
	r = http_parse_request(p, n, &h);
	if (r > (ssize_t)n || (r < 0 && r != -400 && r != -431 && r != -505))
		abort();
	if (r > 0) {
		check_head(&h, p, (size_t)r);
		check_written(&h);
		if (http_head_end(p, n, &scanned) != r)
			abort();
		k = data[n / 2] % (size_t)r;
		part = malloc(k == 0 ? 1 : k);
		memcpy(part, p, k);
		if (http_parse_request(part, k, &h) != 0)
			abort();
		free(part);
	}
	free(p);
	return 0;
}
