/* Chunk-signed bodies: however the bytes are cut into reads, the same comes out or the same is refused; nothing
 * but signatures changes; what is held stays within its bound and is given back. */
#include PROXY_C

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* True: the body was taken, and `out` is what it became. */
static bool
filter(const char *p, size_t n, size_t step, bool trailer, char *out, size_t *nout)
{
	struct filter *f = trailer ? filter_sigv4_trailer_example() : filter_sigv4_example();
	bool ok = true;

	*nout = 0;
	for (size_t at = 0; ok && !f->ended;) {
		size_t part = n - at < step ? n - at : step;
		bool end = at == n;
		char *copy = malloc(part + 1);
		struct slice rest = {copy, part};

		memcpy(copy, p + at, part);
		do {
			struct slice piece = SLICE("");
			ssize_t took = f->class->run(f, rest, end, &piece);

			if (took > (ssize_t)rest.n || piece.n > PEER_PIECE || (took >= 0 && *nout + piece.n > n) ||
			    req_bodies > SIGV4_CHUNK_MAX + SIGV4_LINE_MAX + SIGV4_TRAILERS_MAX)
				abort();
			ok = took >= 0;
			if (!ok)
				break;
			memcpy(out + *nout, piece.p, piece.n);
			*nout += piece.n;
			rest.p += took;
			rest.n -= (size_t)took;
		} while (rest.n != 0 || f->more || (end && !f->ended));
		free(copy);
		at += part;
	}
	filter_free(f);
	if (req_bodies != 0)
		abort();
	return ok;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const char *p = (const char *)data + 1;
	size_t whole, parts, digits = 0;
	char *a, *b;
	bool trailer;

	if (n < 2)
		return 0;
	n--;
	trailer = data[0] & 1;
	a = malloc(n);
	b = malloc(n);
	if (filter(p, n, n, trailer, a, &whole) != filter(p, n, data[0] / 2 % 100 + 1, trailer, b, &parts))
		abort();
	if (whole == parts && memcmp(a, b, whole) != 0)
		abort();
	if (whole == n)
		for (size_t i = 0; i < n; i++)
			if (a[i] != p[i] && (hex_digit(a[i]) < 0 || hex_digit(p[i]) < 0 || ++digits > n / 2 + 64))
				abort();
	free(a);
	free(b);
	return 0;
}
