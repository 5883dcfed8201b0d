/* What searching a body for secrets costs: CPU time per MB, in ms, of the filter as a flow runs it, in pieces of 16 KiB. A line a
 * row: what the body is, the secrets, ms/MB. The least of so many rounds: what else the machine does only adds. */
#include PROXY_C

#define MB 1000000

static double
cpu(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static struct scrub *
secrets(unsigned n)
{
	struct scrub *s = NULL;

	for (unsigned i = 0; i < n; i++) {
		char value[48];
		uint8_t bytes[20];
		struct secret *secret;

		for (unsigned k = 0; k < sizeof bytes; k++)
			bytes[k] = (uint8_t)((i * 7 + k + 3) * 2654435761u >> 13);
		secret = secret_copy(value, hex_encode(value, bytes, sizeof bytes));
		if (!scrub_add(&s, secret, 0, SLICE("placeholder"), SLICE(""), true))
			abort();
		secret_unref(secret);
	}
	return s;
}

int
main(int argc, char **argv)
{
	static const char json[] = "{\"id\":12345,\"name\":\"A name of some length\",\"url\":\"https://api.example.com/v1/items/12345\"},\n";
	static const struct { const char *name, *text; } kinds[] = {{"JSON", json}, {"random", NULL}, {"%-dense", json},
	    {"JSON-in-JSON", "{\\\"id\\\":12345,\\\"name\\\":\\\"A name\\\"},\\n"}, {"\\u-dense", "\\u4e2d\\u6587\\u5b57\\u7b26"},
	    {"%E4-dense", "%E4%B8%AD%E6%96%87"}, {"HTML-in-HTML", "&lt;div class=&quot;item&quot;&gt;A name&lt;/div&gt;\n"}};
	static char body[MB], scratch[PEER_PIECE];
	int rounds = argc > 1 ? atoi(argv[1]) : 20;
	uint64_t seed = 1;

	if (!secret_init() || !scrub_init())
		return 1;
	for (unsigned kind = 0; kind < COUNT(kinds); kind++) {
		for (size_t i = 0; i < sizeof body; i++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			body[i] = kinds[kind].text == NULL ? (char)(seed >> 40) : kind == 2 && i % 53 == 0 ? '%' :
			    kinds[kind].text[i % strlen(kinds[kind].text)];
		}
		for (unsigned n = 1; n <= 8; n += 7) {
			struct scrub *s = secrets(n);
			const struct scrub_table *t;
			double least = 0;

			if (!scrub_table(s, true, &t))
				return 1;
			for (int round = 0; round < rounds; round++) {
				struct scrub_tally tally = {.free = true};
				struct filter *f = filter_scrub_new(s, t, UINT64_MAX, false, SLICE(""), &tally, NULL);
				double began = cpu(), took;

				for (size_t at = 0; at < sizeof body || f->more; ) {
					size_t piece = sizeof body - at < PEER_PIECE ? sizeof body - at : PEER_PIECE;
					struct slice out;

					at += (size_t)f->class->run(f, (struct slice){body + at, piece}, at + piece == sizeof body, scratch, &out);
				}
				took = cpu() - began;
				if (tally.hits != 0)
					return 1;
				filter_free(f);
				least = round == 0 || took < least ? took : least;
			}
			printf("%s %u %.3f\n", kinds[kind].name, n, least);
			scrub_free(s);
		}
	}
	return 0;
}
