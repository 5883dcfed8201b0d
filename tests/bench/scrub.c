/* What searching a body for secrets costs: CPU time per MB, in ms, of the filter as a flow runs it, in pieces of 16 KiB. A line a
 * row: what the body is, the secrets, ms/MB; and what sealing and opening cost: the bytes of a token, µs. The least of so many
 * rounds: what else the machine does only adds. */
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

/* Sealing and opening a token of n bytes, in µs, where so many keys of before a change of the data key are kept. */
static int
seals(size_t n, unsigned old, int rounds)
{
	static char value[4096];
	struct store_keys *k;
	struct seal *s = calloc(1, sizeof *s);
	double least[2] = {1e9, 1e9};

	if (s == NULL || (store.keys = secret_new(sizeof *k)) == NULL)
		return 1;
	k = (struct store_keys *)(void *)store.keys->p;
	store_keys_derive(k);
	for (unsigned i = 0; i < old; i++)
		k->old[i].texts = k->texts, k->old[i].changes = i, k->old[i].ends = INT64_MAX;
	k->changes = old != 0 ? old - 1 : 0;    /* the text is the last old key's */
	memset(value, 'x', n);
	buf_init(&s->text, SEAL_BODY_MAX);
	for (int round = 0; round < rounds; round++) {
		double began = cpu(), took;

		for (int i = 0; i < 1000; i++) {
			buf_clear(&s->text);
			if (!seal_put(s, 1, 2, SEAL_OPAQUE, SLICE("ghs_"), (struct slice){value, n}))
				return 1;
		}
		took = cpu() - began;
		least[0] = took < least[0] ? took : least[0];
		began = cpu();
		for (int i = 0; i < 1000; i++) {
			struct secret *opened;
			struct sealed t;
			size_t at = 0;

			if (!seal_next(buf_slice(&s->text), &at, &t) || (opened = seal_open(&t, s->epochs)) == NULL)
				return 1;
			secret_unref(opened);
		}
		took = cpu() - began;
		least[1] = took < least[1] ? took : least[1];
	}
	printf("sealing,%u %zu %.3f\nopening,%u %zu %.3f\n", old, n, least[0], old, n, least[1]);
	secret_drop(&store.keys);
	seal_free(s);
	return 0;
}

int
main(int argc, char **argv)
{
	static const char json[] = "{\"id\":12345,\"name\":\"A name of some length\",\"url\":\"https://api.example.com/v1/items/12345\"},\n";
	static const struct { const char *name, *text; } kinds[] = {{"JSON", json}, {"random", NULL}, {"%-dense", json},
	    {"JSON-in-JSON", "{\\\"id\\\":12345,\\\"name\\\":\\\"A name\\\"},\\n"}, {"\\u-dense", "\\u4e2d\\u6587\\u5b57\\u7b26"},
	    {"%E4-dense", "%E4%B8%AD%E6%96%87"}, {"HTML-in-HTML", "&lt;div class=&quot;item&quot;&gt;A name&lt;/div&gt;\n"},
	    {"&#-dense", "&#20013;&#x6587;"}, {"JSON-in-a-query", "%7B%22id%22%3A12345%2C%22name%22%3A%22A%20name%22%7D%2C"},
	    {"all-%", "%41%20%6e%61%6d%65%20%6f%66"}, {"all-\\u", "\\u0041\\u0020\\u006e\\u0061\\u006d\\u0065"}, {"%25-dense", "%25E4%25B8%25AD"},
	    {"all-%25", "%2541%2520%256e%2561%256d%2565"}, {"all-&#", "&#65;&#32;&#110;&#97;&#109;&#101;"},
	    {"all-&#x", "&#x41;&#x20;&#x6e;&#x61;&#x6d;"}, {"names", "&lt;&gt;&amp;&quot;&lt;&apos;"},
	    {"every-third", "ab%63de%66gh%69"}, {"short-\\", "\\/\\\"\\/\\t"}, {"mixed", "ab%63de&#103;hi\\u006a"}, {"\\\\u-dense", "\\\\u4e2d\\\\u6587"},
	    {"all-\\\\u", "\\\\u0041\\\\u006e\\\\u0061"}};
	static char body[MB];
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
		for (unsigned n = 1; n <= 8 && (argc < 3 || strcmp(argv[2], kinds[kind].name) == 0); n += 7) {
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
					struct slice out = {"", 0};

					at += (size_t)f->class->run(f, (struct slice){body + at, piece}, at + piece == sizeof body, &out);
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
	return argc > 2 && strcmp(argv[2], "sealing") != 0 ? 0 : seals(1024, 0, rounds) + seals(1024, 1, rounds) + seals(1024, STORE_OLD_KEYS, rounds);
}
