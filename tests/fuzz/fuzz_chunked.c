/* Chunked framing: however the bytes are cut into reads, the body, the trailers and the end are the same. */
#include PROXY_C

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct outcome {
	enum chunk_event last;
	size_t at, body, trailers;
	uint64_t sum;           /* of the body, in order */
};

/* Feeds p, `step` bytes more at each read; what was not used stays. */
static struct outcome
decode(const char *p, size_t n, size_t step)
{
	struct http_chunked c = {0};
	struct outcome o = {.last = CHUNK_MORE};
	struct slice run;
	size_t have = step < n ? step : n, used;

	for (;;) {
		char *copy = malloc(have - o.at + 1);   /* the end of the read is the end of the memory, but for one */
		memcpy(copy, p + o.at, have - o.at);
		o.last = http_chunked_step(&c, copy, have - o.at, &used, &run);
		if (used > have - o.at)
			abort();
		if (o.last == CHUNK_DATA)
			for (size_t i = 0; i < run.n; i++, o.body++)
				o.sum = o.sum * 31 + (unsigned char)run.p[i];
		if (o.last == CHUNK_TRAILERS)
			o.trailers += run.n;
		free(copy);
		o.at += used;
		if (o.last == CHUNK_END || o.last == CHUNK_BAD)
			return o;
		if (o.last == CHUNK_MORE && have == n)
			return o;
		if (o.last == CHUNK_MORE)
			have = n - have < step ? n : have + step;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct outcome whole, parts;

	if (n < 2)
		return 0;
	whole = decode((const char *)data + 1, n - 1, n - 1);
	parts = decode((const char *)data + 1, n - 1, data[0] % 32 + 1);
	if (whole.last != parts.last || whole.body != parts.body || whole.sum != parts.sum ||
	    whole.trailers != parts.trailers || (whole.last == CHUNK_END && whole.at != parts.at))
		abort();
	return 0;
}
