/* The reader of answers whose members are sealed: in its result each value of a member is a text that opens to what stood
 * there. */
#include "seal.h"

static struct req fuzz_req;
static struct conn fuzz_conn;

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	fuzz_begin();
	return 0;
}

/* The values of members, each with a NUL behind it. `opened`: they are texts, which are opened. False: one is none. */
static bool
fuzz_values(struct req *r, struct http_head *h, bool opened, struct buf *out)
{
	struct subst_spots c;

	while (!seal_whole(r, h))
		;
	c = r->seal->spots;
	/* it is read anew: what tells how far is as in the beginning */
	memset(&r->seal->spots, 0, sizeof r->seal->spots);
	memset(&r->seal->turns, 0, sizeof r->seal->turns);
	r->seal->form = false;
	if (!r->seal->well)
		return false;
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
		memset(&r->seal->spots, 0, sizeof r->seal->spots);
		memset(&r->seal->turns, 0, sizeof r->seal->turns);
		r->seal->form = false;

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

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct slice in = {(const char *)data + 1, n - 1}, first;

	if (n < 2)
		return 0;
	first = slice_cut(&in, '\n');
	fuzz_answer(data[0], first, in);
	return 0;
}
