/* What CONNECT and URLs name: host and port, in one canonical form, which stays itself. */
#include PROXY_C

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void
canonical(struct slice in)
{
	char out[256], again[256];
	bool ip = false, ip2 = false;
	struct addr a;
	size_t len;

	memset(out, 'x', sizeof out);
	if (http_canonical_host(in, out, &ip) != NULL)
		return;
	len = strnlen(out, sizeof out);
	if (len == 0 || len > 255 || http_canonical_host((struct slice){out, len}, again, &ip2) != NULL)
		abort();
	if (ip != ip2 || strcmp(out, again) != 0)
		abort();
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)out[i] <= ' ' || (unsigned char)out[i] >= 127 || (out[i] >= 'A' && out[i] <= 'Z'))
			abort();
	if (ip != addr_parse((struct slice){out, len}, &a))
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *p = malloc(n == 0 ? 1 : n);
	struct slice in = {p, n}, host, authority, rest;
	bool tls;
	int port;

	if (n != 0)
		memcpy(p, data, n);
	canonical(in);
	if (http_parse_authority(in, &host, &port)) {
		if (port != -1 && (port < 1 || port > 65535))
			abort();
		canonical(host);
	}
	http_parse_absolute(in, &tls, &authority, &rest);
	free(p);
	return 0;
}
