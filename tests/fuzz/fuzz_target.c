/* What CONNECT and URLs name: host and port, in one canonical form, which stays itself. */
#include PROXY_C

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void
canonical(struct slice in)
{
	char out[256], again[256];
	size_t len = 0, len2 = 0;
	bool ip = false, ip2 = false;
	const char *why = NULL;
	struct addr a;

	if (!http_canonical_host(in, out, &len, &ip, &why)) {
		if (why == NULL)
			abort();
		return;
	}
	if (len == 0 || len > 255 || !http_canonical_host((struct slice){out, len}, again, &len2, &ip2, &why))
		abort();
	if (len != len2 || ip != ip2 || memcmp(out, again, len) != 0)
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
