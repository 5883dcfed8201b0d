/* Sealed texts: what was changed does not open, what was sealed does; and the reader of answers, in whose result each
 * value of a member is a text that opens to what stood there. */
#include PROXY_C

static const uint8_t fuzz_epochs[16] = {1, 2, 3};
static struct seal *fuzz_made;          /* a text of it, for changes */
static struct subst fuzz_rows;          /* of all kinds, each optional */
static struct req fuzz_req;
static struct conn fuzz_conn;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void
fuzz_row(enum subst_place place, struct slice name, struct slice prefix, bool ends, bool jwt)
{
	fuzz_rows.row[fuzz_rows.n++] = (struct subst_row){.place = place, .name = name, .placeholder = prefix, .locked = ends, .jwt = jwt};
}

static struct seal *
fuzz_seal(void)
{
	struct seal *s = calloc(1, sizeof *s);

	if (s == NULL || (s->rows = calloc(1, sizeof *s->rows)) == NULL)
		abort();
	*s->rows = fuzz_rows;
	memcpy(s->epochs, fuzz_epochs, sizeof s->epochs);
	for (size_t i = 0; i < STORE_ID; i++)   /* as random ones: a value is not met in them */
		s->head[29 + i] = (uint8_t)(167 * i + 91), s->head[45 + i] = (uint8_t)(89 * i + 203);
	s->max = 86400;
	s->none = 3600;
	s->no_later = INT64_MAX;
	buf_init(&s->text, SEAL_BODY_MAX);
	return s;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct store_keys *k;

	(void)argc;
	(void)argv;
	if (!secret_init() || !scrub_init() || (store.keys = secret_new(sizeof *k)) == NULL)
		abort();
	k = (struct store_keys *)(void *)store.keys->p;
	memset(k->data, 7, sizeof k->data);
	store_keys_derive(k);
	fuzz_row(PLACE_JSON, (struct slice){"t\0", 2}, SLICE(""), false, true);
	fuzz_row(PLACE_JSON, (struct slice){"a\0*\0k\0", 6}, SLICE("p_"), false, false);
	fuzz_row(PLACE_JSON, (struct slice){"e\0", 2}, SLICE(""), true, false);
	fuzz_row(PLACE_FORM, SLICE("f"), SLICE(""), false, false);
	fuzz_row(PLACE_HEADER, SLICE("x-t"), SLICE(""), false, true);
	fuzz_row(PLACE_COOKIE, SLICE("s"), SLICE(""), false, false);
	fuzz_made = fuzz_seal();
	if (!seal_put(fuzz_made, 1, 2, SEAL_OPAQUE, SLICE("ghs_"), SLICE("the secret of an API")))
		abort();
	return 0;
}

/* Does all of `in` open? */
static struct secret *
fuzz_open(struct slice in)
{
	struct sealed t;
	size_t at = 0;

	return seal_next(in, &at, &t) && t.text.p == in.p && t.text.n == in.n ? seal_open(&t, fuzz_epochs) : NULL;
}

/* Pairs of a place and what is changed there: it opens as long as nothing is. */
static void
fuzz_change(struct slice edits)
{
	struct slice made = buf_slice(&fuzz_made->text);
	struct buf b = {.max = made.n};
	struct secret *s;

	buf_addv(&b, made);
	for (size_t i = 0; i + 1 < edits.n; i += 2)
		b.p[(uint8_t)edits.p[i] % made.n] ^= edits.p[i + 1];
	s = fuzz_open(buf_slice(&b));
	if ((s != NULL) != slice_eq(buf_slice(&b), made))
		abort();
	secret_unref(s);
	buf_free(&b);
}

/* Whatever is sealed opens, as a JWT where it is one. */
static void
fuzz_whole(struct slice kept, struct slice value)
{
	struct seal *s = fuzz_seal();
	struct buf sig = {0};
	struct slice before;
	struct secret *got;
	bool jwt = seal_jwt(value, &before, &sig);

	if (!(jwt ? seal_put(s, 0, -1, SEAL_JWT, before, buf_slice(&sig)) : seal_put(s, 0, INT64_MAX, SEAL_OPAQUE, kept, value)) ||
	    s->text.n > (jwt ? before.n : kept.n) + 4 * ((jwt ? sig.n : value.n) + 96) / 3)
		abort();
	got = memmem(kept.p, kept.n, SEAL_MARK.p, SEAL_MARK.n) == NULL && memmem(value.p, value.n, SEAL_MARK.p, SEAL_MARK.n) == NULL ?
	    fuzz_open(buf_slice(&s->text)) : NULL;
	if (got != NULL ? !slice_eq(secret_slice(got), value) : !slice_has(kept, SEAL_MARK) && !slice_has(value, SEAL_MARK))
		abort();
	secret_unref(got);
	buf_free(&sig);
	seal_free(s);
	(void)seal_end(fuzz_made, 1000, value);
}

/* The values of members, each with a NUL behind it. `opened`: they are texts, which are opened. False: one is none. */
static bool
fuzz_values(struct req *r, struct http_head *h, bool opened, struct buf *out)
{
	struct subst_spots c;

	memset(&r->seal->spots, 0, sizeof r->seal->spots);
	memset(&r->seal->turns, 0, sizeof r->seal->turns);
	while (!seal_whole(r, h))
		;
	if (!r->seal->well)
		return false;
	c = r->seal->spots;
	memset(&r->seal->spots, 0, sizeof r->seal->spots);
	for (struct http_field *f = h->field; f < h->field + h->nfields; f++) {
		struct slice value = slice_until(f->value, ';'), name = http_trim(slice_cut(&value, '='));

		subst_note(&c, subst_rows(c.s, PLACE_HEADER, f->name), (struct json_token){.raw = f->value}, PLACE_HEADER, f);
		if (slice_eq_nocase(f->name, SLICE("set-cookie")))
			subst_note(&c, subst_rows(c.s, PLACE_COOKIE, name), (struct json_token){.raw = http_trim(value)}, PLACE_COOKIE, f);
	}
	for (size_t i = 0; i < c.n; i++) {
		struct secret *s;

		if (!seal_row(&c, i)->locked && seal_inside(&c.spot[i]).n != 0) {
			if ((s = seal_value(&c.spot[i])) != NULL && opened) {
				struct secret *text = s;

				s = fuzz_open(secret_slice(text));
				secret_unref(text);
			}
			if (s == NULL)
				return false;
			buf_addv(out, secret_slice(s));
			buf_add(out, "", 1);
			secret_unref(s);
		}
	}
	return buf_ok(out);
}

static void
fuzz_answer(unsigned flags, struct slice head, struct slice body)
{
	static struct http_head h;
	struct req *r = &fuzz_req;
	struct buf before = {.max = 4 * SEAL_BODY_MAX}, after = before;
	const char *types[] = {"application/json", "application/x-www-form-urlencoded", "text/plain", "application/x-ndjson"};

	memset(r, 0, sizeof *r);
	r->conn = &fuzz_conn;
	r->head.method = SLICE("POST");
	r->seal = fuzz_seal();
	r->status = flags % 4 == 3 ? 404 : 200;
	buf_init(&r->answer, SEAL_BODY_MAX);
	buf_init(&r->up_bytes, HTTP_HEAD_MAX);
	buf_addv(&r->answer, body);
	buf_addf(&r->up_bytes, "HTTP/1.1 %d X\r\nContent-Type: %s\r\n", r->status, types[flags / 4 % 4]);
	buf_addv(&r->up_bytes, head);
	buf_adds(&r->up_bytes, "\r\n\r\n");
	if (http_parse_response(r->up_bytes.p, r->up_bytes.n, r->head.method, &h) > 0) {
		bool read = fuzz_values(r, &h, false, &before), went;

		while (!seal_whole(r, &h))
			;
		went = seal_answer(r, &h, FLOW_DONE);

		for (const char *c = "\"\\&=;"; *c != '\0' && went; c++)        /* what has one of them may be met across two members */
			went = before.n == 0 || memchr(before.p, *c, before.n) == NULL;
		/* a form that is no JSON text may be one once a value with odd bytes is sealed */
		if (went && read && (flags / 4 % 4 == 0 || (memchr(body.p, '{', body.n) == NULL && memchr(body.p, '"', body.n) == NULL)) &&
		    (!fuzz_values(r, &h, true, &after) || !slice_eq(buf_slice(&before), buf_slice(&after))))
			abort();
	}
	buf_free(&before);
	buf_free(&after);
	req_count_answer(r, 0);
	if (req_bodies != 0)
		abort();
	buf_free(&r->answer);
	buf_free(&r->up_bytes);
	scrub_free(r->back);
	seal_free(r->seal);
}

/* Two targets in one: each is counted for itself, and says so every million executions. */
static void
fuzz_count(const char *what, uint64_t *n)
{
	if (++*n % 1000000 == 0)
		fprintf(stderr, "%s: %ju million\n", what, (uintmax_t)(*n / 1000000));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static uint64_t sealer, readers;
	struct slice in = {(const char *)data + 2, n - 2}, first;

	if (n < 2)
		return 0;
	first = slice_cut(&in, '\n');
	if (data[0] % 3 == 0)
		fuzz_change((struct slice){(const char *)data + 1, n - 1});
	else if (data[0] % 3 == 1)
		fuzz_whole(first, in);
	else
		fuzz_answer(data[1], first, in);
	fuzz_count(data[0] % 3 == 2 ? "readers" : "sealer", data[0] % 3 == 2 ? &readers : &sealer);
	return 0;
}
