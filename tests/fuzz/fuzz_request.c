/* A request's head as a client sends it: what is taken lies in the buffer, and no part of it is taken as a whole. */
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
		within(h->path, p, n);
	within(h->query, p, n);
	within(h->to.host, p, n);
	within(h->host.host, p, n);
	if (h->nfields > HTTP_FIELDS_MAX || h->minor < 0 || h->minor > 1)
		abort();
	for (size_t i = 0; i < h->nfields; i++) {
		within(h->field[i].name, p, n);
		within(h->field[i].value, p, n);
		if (!http_valid_field_name(h->field[i].name) || !http_valid_field_value(h->field[i].value))
			abort();
	}
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
	if (r > (ssize_t)n || (r < 0 && r != -400 && r != -431 && r != -501 && r != -505))
		abort();
	if (r > 0) {
		check_head(&h, p, (size_t)r);
		if (http_head_end(p, n, &scanned) > r)
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
