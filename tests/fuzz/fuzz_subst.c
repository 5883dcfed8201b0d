/* Rows in what a sandbox may send (any kind of body, a header, a path, WebSocket frames in pieces) and the way back in what
 * an upstream may answer. The first byte chooses. Nothing of the secret may be left where nothing was to be found, and
 * an answer must not keep it. */
#include PROXY_C

#define PH "{PH}"
#define SECRET "k/ \"&]9"

static struct subst *fuzz_rows;
static struct subst_back *fuzz_list;
static struct known fuzz_known = {.text = {.max = 4096}};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct subst *s = fuzz_rows = calloc(1, sizeof *s);
	struct secret *other;

	(void)argc;
	(void)argv;
	if (!secret_init())
		abort();
	buf_init(&s->text, 64);
	buf_adds(&s->text, PH PH "b");
	s->row[0] = (struct subst_row){{s->text.p, 4}, secret_copy(SECRET, sizeof SECRET - 1), 31};
	s->row[1] = (struct subst_row){{s->text.p + 4, 5}, secret_copy("\xff", 1), SUBST_BODY};
	s->n = 2;
	other = secret_copy("ab", 2);
	if (!subst_back_add(&fuzz_list, s->row[0].secret, SLICE("SENT"), SLICE("")) ||
	    !subst_back_add(&fuzz_list, other, (struct slice){NULL, 0}, SLICE("k")) ||
	    !known_add(&fuzz_known, SLICE("one"), SLICE("tok_12345678"), 12) ||
	    !known_add(&fuzz_known, SLICE("two"), SLICE("12345678x"), 8))
		abort();
	return 0;
}

static void
fuzz_body(struct slice in, unsigned kind)
{
	struct buf out;
	struct subst_run t = {.s = fuzz_rows, .place = SUBST_BODY, .in = in, .out = &out};

	buf_init(&out, 4096);
	if (kind < 6 ? subst_body(&t, (enum subst_kind)kind) == SUBST_DONE :
	    kind == 6 ? subst_all(&t, &subst_path) : (t.place = SUBST_HEADER, subst_header(&t))) {
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
	struct subst_ws *w = subst_ws_new(fuzz_rows);
	bool ok = true, text = false;
	struct buf all;

	buf_init(&all, 1 << 20);
	for (size_t at = 0; ok && at < in.n; at += step) {
		ok = subst_ws_feed(w, (struct slice){in.p + at, in.n - at < step ? in.n - at : step});
		text = text || w->hold || w->held.n != 0;
		buf_addv(&all, buf_slice(&w->out));
		buf_clear(&w->out);
	}
	if (!ok || (!text && step == 1 && (all.n + w->head_n != in.n || memcmp(all.p != NULL ? all.p : "", in.p, all.n) != 0)))
		abort();
	buf_free(&all);
	subst_ws_free(w);
}

static void
fuzz_answer(struct slice in)
{
	struct known_found found = {.n = 0};
	struct buf out;

	buf_init(&out, 4096);
	if (buf_reserve(&out, 1) && subst_back_value(fuzz_list, in, &out) && memmem(out.p, out.n, SECRET, sizeof SECRET - 1) != NULL &&
	    memmem(in.p, in.n, SECRET, sizeof SECRET - 1) != NULL && memmem(in.p, in.n, "ab", 2) == NULL)
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
			fuzz_answer(in);
	}
	subst_kind_of(in);
	free(copy);
	return 0;
}
