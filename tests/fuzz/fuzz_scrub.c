/* The way back: a body whole, in pieces and as the messages of a WebSocket, packed or not. Bytes of the input say where it
 * is cut and when its time is over. Nothing is lost or added, and no secret is left in what was searched whole. */
#include PROXY_C

#define ONE "k/ \"&]9z<%-0\\secret"
#define TWO "machine-made"

#define THREE "npm_0123456789abcdefABCDEF"

/* The second has no character that begins an escape: of a run of escapes not each is read. */
static struct scrub *fuzz_lists[2];
static const struct scrub_table *fuzz_tables[2];

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	if (!secret_init() || !scrub_init() ||
	    !scrub_add(&fuzz_lists[0], secret_copy(ONE, sizeof ONE - 1), 0, SLICE("PLACEHOLDER"), SLICE(""), false) ||
	    !scrub_add(&fuzz_lists[0], secret_copy(TWO, sizeof TWO - 1), 0, SLICE("OTHER"), SLICE(""), true) ||
	    !scrub_add(&fuzz_lists[1], secret_copy(THREE, sizeof THREE - 1), 0, SLICE("PLACEHOLDER"), SLICE(""), false) ||
	    !scrub_add(&fuzz_lists[1], secret_copy(TWO, sizeof TWO - 1), 0, SLICE("OTHER"), SLICE(""), true) ||
	    !scrub_table(fuzz_lists[0], true, &fuzz_tables[0]) || !scrub_table(fuzz_lists[1], true, &fuzz_tables[1]) ||
	    fuzz_tables[0]->runs[SCRUB_JSON] || !fuzz_tables[1]->runs[SCRUB_JSON])
		abort();
	return 0;
}

/* Feeds `in` in pieces as long as `cuts` say. False: the filter refused. */
static bool
fuzz_feed(struct filter *f, struct slice in, struct slice cuts, struct buf *out)
{
	for (size_t at = 0, k = 0; at < in.n; k++) {
		uint8_t cut = cuts.n != 0 ? (uint8_t)cuts.p[k % cuts.n] : 255;
		size_t n = 1 + cut / 2;

		if (n > in.n - at)
			n = in.n - at;
		f->hurry = cut % 2 != 0 && f->hold_until != 0;
		if (!filter_feed(f, (struct slice){in.p + at, n}, false, out))
			return false;
		at += n;
	}
	return filter_feed(f, SLICE(""), true, out) && f->ended && f->hold_until == 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct slice in = {(const char *)data, n}, cuts = {NULL, 0};
	struct scrub_tally tally = {.free = true, .all = n != 0 && data[0] / 10 % 2 != 0};
	size_t share = 0;
	unsigned kind = n != 0 ? data[0] % 5 : 0, which = n != 0 ? data[0] / 5 % 2 : 0;
	struct scrub *fuzz_list = fuzz_lists[which];
	const struct scrub_table *fuzz_table = fuzz_tables[which];
	struct filter *f;
	struct buf out;
	bool ok;

	if (n < 10)
		return 0;
	cuts = (struct slice){in.p + 1, 8};
	in = (struct slice){in.p + 9, n - 9};
	buf_init(&out, 1 << 20);
	if (kind == 0) {                /* whole */
		buf_addv(&out, in);
		if (buf_reserve(&out, 1) && (!scrub_body(fuzz_list, &out, &tally) ||
		    memmem(out.p, out.n, which == 0 ? ONE : THREE, (which == 0 ? sizeof ONE : sizeof THREE) - 1) != NULL || memmem(out.p, out.n, TWO, sizeof TWO - 1) != NULL))
			abort();
	} else if (kind == 1) {
		f = filter_scrub_ws_new(fuzz_list, fuzz_table, &tally, &share);
		ok = fuzz_feed(f, in, cuts, &out);
		if ((!ok && f->fault != &filter_scrub_hit) || out.n > in.n || (tally.hits == 0 && out.n != 0 && memcmp(out.p, in.p, out.n) != 0))
			abort();
		filter_free(f);
	} else {
		struct slice coding = kind == 2 ? SLICE("") : kind == 3 ? SLICE("gzip") : SLICE("deflate");

		f = filter_scrub_new(fuzz_list, fuzz_table, UINT64_MAX, false, coding, &tally, &share);
		ok = fuzz_feed(f, in, cuts, &out);
		if (kind == 2 && (!ok || out.n != in.n || (tally.hits == 0 && out.n != 0 && memcmp(out.p, in.p, in.n) != 0)))
			abort();
		if (kind > 2 && (out.n > in.n || (out.n != 0 && memcmp(out.p, in.p, out.n) != 0) || (ok && out.n != in.n)))
			abort();
		filter_free(f);
	}
	if (share != 0)
		abort();
	buf_free(&out);
	return 0;
}
