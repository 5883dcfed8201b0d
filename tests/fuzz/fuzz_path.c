/* Readings of a path: bounded in number, each begins with a slash, the first is the path itself. */
#include PROXY_C

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static char mem[HTTP_READINGS_BYTES];
	struct slice reading[HTTP_READINGS_MAX];
	char *p = malloc(n == 0 ? 1 : n);
	int k;

	if (n != 0)
		memcpy(p, data, n);
	k = http_path_readings((struct slice){p, n}, mem, reading);
	if (k == 0 || k > HTTP_READINGS_MAX)
		abort();
	for (int i = 0; i < k; i++) {
		if (reading[i].n == 0 || reading[i].p[0] != '/' || memchr(reading[i].p, '\0', reading[i].n) != NULL)
			abort();
		for (int j = 0; j < i; j++)
			if (slice_eq(reading[i], reading[j]))
				abort();
	}
	if (k > 0 && !slice_eq(reading[0], (struct slice){p, n}))
		abort();
	free(p);
	return 0;
}
