/* An upstream's head, the request's method chosen by the first byte. No part of what is taken is taken as a whole. */
#include PROXY_C

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const char *const methods[] = {"GET", "HEAD", "CONNECT", "POST"};
	static struct http_head h;
	struct slice method;
	char *p, *part;
	ssize_t r;
	size_t k;

	if (n == 0)
		return 0;
	method = slice_of(methods[data[0] % 4]);
	p = malloc(n);
	memcpy(p, data + 1, n - 1);
	r = http_parse_response(p, n - 1, method, &h);
	if (r > (ssize_t)n - 1 || (r < 0 && r != -502))
		abort();
	if (r > 0) {
		if (h.status < 100 || h.status > 999 || h.nfields > HTTP_FIELDS_MAX)
			abort();
		if ((data[0] % 4 == 1 || h.status == 204 || h.status == 304) && h.body != BODY_NONE)
			abort();
		for (size_t i = 0; i < h.nfields; i++)
			if (!http_is_token(h.field[i].name) || !http_valid_field_value(h.field[i].value))
				abort();
		k = data[n / 2] % (size_t)r;
		part = malloc(k == 0 ? 1 : k);
		memcpy(part, p, k);
		if (http_parse_response(part, k, method, &h) != 0)
			abort();
		free(part);
	}
	free(p);
	return 0;
}
