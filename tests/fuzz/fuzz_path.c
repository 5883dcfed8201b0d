/* Readings of a path: bounded in number, each begins with a slash, the first is the path itself, and reading a
 * reading in another way brings nothing new: no order of gateways and servers is left out. */
#include PROXY_C

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool
among(const struct slice *list, int k, struct slice s)
{
	for (int i = 0; i < k; i++)
		if (slice_eq(list[i], s))
			return true;
	return false;
}

/* Each habit on each reading; the path itself may also be decoded, twice. */
static void
closed(const struct slice *list, int k)
{
	char *out = malloc(list[0].n), *twice = malloc(list[0].n);

	for (int i = 0; i < k; i++)
		for (enum http_way w = 0; w < WAYS; w++) {
			struct slice s = {out, http_reading(list[i], w, out)};

			if (s.n > list[i].n || ((w < WAY_DECODE || i == 0) && !among(list, k, s)))
				abort();
			if (i == 0 && w >= WAY_DECODE) {
				s = (struct slice){twice, http_reading(s, w, twice)};
				if (!among(list, k, s))
					abort();
			}
		}
	free(out);
	free(twice);
}

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
	if (k > 0)
		closed(reading, k);
	free(p);
	return 0;
}
