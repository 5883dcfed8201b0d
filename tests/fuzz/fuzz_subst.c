/* Rows in what a sandbox may send (any kind of body, a header, a path, WebSocket frames in pieces) and the way back in what
 * an upstream may answer. The first byte chooses. Nothing of the secret may be left where nothing was to be found, and
 * an answer must not keep it. */
#include PROXY_C

#define PH "{PH}"
#define SECRET "k/ \"&]9z"
#define WORD "word+of/8"

static struct subst *fuzz_subst_rows;
static struct scrub *fuzz_list, *fuzz_long;
static struct known fuzz_known = {.text = {.max = 4096}};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct subst *s = fuzz_subst_rows = calloc(1, sizeof *s);
	struct secret *other;

	(void)argc;
	(void)argv;
	if (!secret_init() || !scrub_init())
		abort();
	buf_init(&s->text, 64);
	buf_adds(&s->text, PH PH "b");
	/* each place twice, at a name and for two placeholders of which one begins the other */
	for (unsigned i = 0; i < 2 * PLACES; i++) {
		enum subst_place place = (enum subst_place)(i / 2);

		s->row[i] = (struct subst_row){.placeholder = {s->text.p + (i % 2 == 0 ? 0 : 4), i % 2 == 0 ? 4 : 5},
		    .secret = i % 2 == 0 ? secret_copy(SECRET, sizeof SECRET - 1) : secret_copy("\xff", 1), .place = place,
		    .name = place == PLACE_JSON || place == PLACE_WS ? (struct slice){"a\0" "0\0", 4} :
		    place == PLACE_BASIC || place == PLACE_PATH ? SLICE("") : SLICE("k"), .from = 2, .to = 6};
	}
	s->n = 2 * PLACES;
	other = secret_copy("ab", 2);
	if (!scrub_add(&fuzz_list, s->row[0].secret, 0, SLICE("SENT"), SLICE(""), false) ||
	    !scrub_add(&fuzz_list, other, 0, (struct slice){NULL, 0}, SLICE("k"), false) ||
	    !scrub_add(&fuzz_long, secret_copy(WORD, sizeof WORD - 1), 0, SLICE("<>"), SLICE(""), false) ||
	    !known_add(&fuzz_known, SLICE("one"), SLICE("tok_12345678"), 12) ||
	    !known_add(&fuzz_known, SLICE("two"), SLICE("12345678x"), 8))
		abort();
	return 0;
}

static void
fuzz_body(struct slice in, unsigned kind)
{
	struct buf out;
	struct subst_run t = {.s = fuzz_subst_rows, .in = in, .out = &out};
	bool well = true;

	buf_init(&out, 4096);
	if (kind <= SUBST_PARTS)
		well = subst_body(&t, (enum subst_kind)kind);
	else if (kind == 5)
		subst_spans(&t, PLACE_PATH);
	else if (kind == 6)
		subst_pairs(&t, PLACE_QUERY);
	else
		subst_header(&t, in.n % 2 == 0 ? SLICE("k") : SLICE("authorization"));
	if (well && buf_ok(&out)) {
		if (t.hits == 0 && out.n != 0)
			abort();
		if (t.hits != 0 && kind == SUBST_JSON) {        /* what was JSON is JSON */
			struct json_reader r;
			struct json_token token;

			json_open(&r, buf_slice(&out));
			while (json_next(&r, &token) != JSON_BAD && token.type != JSON_END)
				;
			if (token.type != JSON_END)
				abort();
		}
	}
	buf_free(&out);
}

/* Where no frame is both text and masked, all comes out as it went in. */
static void
fuzz_ws(struct slice in, size_t step)
{
	struct filter *f = filter_ws_new(fuzz_subst_rows);
	struct filter_ws *w = (struct filter_ws *)f;
	bool ok = true, text = false;
	struct buf all;

	buf_init(&all, 1 << 20);
	for (size_t at = 0; ok && at < in.n; at += step) {
		ok = filter_feed(f, (struct slice){in.p + at, in.n - at < step ? in.n - at : step}, false, &all);
		text = text || w->hold || w->held.n != 0;
	}
	if (!ok || (!text && step == 1 && (all.n + w->frame.head_n != in.n || memcmp(all.p != NULL ? all.p : "", in.p, all.n) != 0)))
		abort();
	buf_free(&all);
	filter_free(f);
}

static void
fuzz_subst_answer(struct slice in)
{
	struct known_found found = {.n = 0};
	struct buf out;

	buf_init(&out, 4096);
	if (buf_reserve(&out, 1) && scrub_put(fuzz_list, in, &out) && memmem(out.p, out.n, SECRET, sizeof SECRET - 1) != NULL &&
	    memmem(in.p, in.n, SECRET, sizeof SECRET - 1) != NULL && memmem(in.p, in.n, "ab", 2) == NULL)
		abort();
	buf_free(&out);
	/* what is taken out is what is seen, and no spelling of it is left */
	buf_init(&out, 1 << 20);
	if (buf_reserve(&out, 1) && scrub_put(fuzz_long, in, &out) &&
	    scrub_in(fuzz_long, in) != (out.n != in.n || memcmp(out.p, in.p, in.n) != 0))
		abort();
	buf_free(&out);
	known_scan_value(&fuzz_known, in, &found);
	known_scan_encoded(&fuzz_known, in, &found);
	if (found.n > 2)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *copy = malloc(n == 0 ? 1 : n);    /* exactly as long, so that ASan sees a byte too far */
	struct slice in = {copy, n == 0 ? 0 : n - 1};

	if (n != 0) {
		memcpy(copy, data + 1, n - 1);
		if (data[0] % 10 < 8)
			fuzz_body(in, data[0] % 10);
		else if (data[0] % 10 == 8)
			fuzz_ws(in, 1u + data[0] / 10);
		else
			fuzz_subst_answer(in);
	}
	subst_kind_of(in);
	free(copy);
	return 0;
}
