/* Rows: what becomes of placeholders, and of what an answer repeats. Each text also cut at every byte, before a guard
 * page, and each WebSocket stream fed in pieces of every size. */
#include PROXY_C
#include "guard.h"

/* Rows that all have this one place; a name's NULs are written as "|". */
static struct subst *
subst_of(size_t n, const char *const (*row)[2], enum subst_place place, const char *name)
{
	struct subst *s = calloc(1, sizeof *s);
	size_t at = 0;

	buf_init(&s->text, 8192);
	for (size_t i = 0; i < n; i++) {
		buf_adds(&s->text, row[i][0]);
		buf_adds(&s->text, name);
		s->row[i] = (struct subst_row){.placeholder = {NULL, strlen(row[i][0])}, .name = {NULL, strlen(name)},
		    .secret = secret_copy(row[i][1], strlen(row[i][1])), .place = place};
	}
	s->n = n;
	for (size_t i = 0; i < s->text.n; i++)
		if (s->text.p[i] == '|')
			s->text.p[i] = '\0';
	for (size_t i = 0; i < n; at += strlen(name), i++) {
		s->row[i].placeholder.p = s->text.p + at;
		at += s->row[i].placeholder.n;
		s->row[i].name.p = s->text.p + at;
	}
	return s;
}

static const char *const one[][2] = {{"__PH__", "s/e+c \"r&<e>\\t'"}};
static const char *const two[][2] = {{"__PH__", "first"}, {"__PH__2__", "second"}};

/* Runs `text` as that kind of body (or as with a code), and says whether it came out. */
static bool
subst_run(const struct subst *s, const struct subst_code *code, enum subst_kind kind, const char *text, size_t n, struct buf *out,
    uint64_t *hits)
{
	struct subst_run t = {.s = s, .rows = UINT64_MAX >> (64 - s->n), .in = {guard_copy(text, n), n}, .out = out};
	bool well = true;

	buf_clear(out);
	if (code == NULL)
		well = subst_body(&t, kind);
	else
		subst_all(&t, code);
	well = well && buf_ok(out);
	if (well && t.hits == 0)
		buf_add(out, text, n);
	*hits = t.hits;
	return well;
}

static void
expect(const char *name, const struct subst *s, const struct subst_code *code, enum subst_kind kind, const char *text,
    const char *want)
{
	struct buf out;
	uint64_t hits;
	bool result;

	buf_init(&out, 4096);
	result = subst_run(s, code, kind, text, strlen(text), &out, &hits);
	test_result(result ? want != NULL && slice_eq(buf_slice(&out), slice_of(want)) : want == NULL, name,
	    "%d: %.*s", result, (int)out.n, out.n != 0 ? out.p : "");
	for (size_t n = 0; n < strlen(text); n++)
		subst_run(s, code, kind, text, n, &out, &hits);
	for (size_t max = 0; max < 64; max++) { /* no room: no byte more than there is */
		buf_free(&out);
		buf_init(&out, max);
		subst_run(s, code, kind, text, strlen(text), &out, &hits);
	}
	buf_free(&out);
}

static void
test_codes(void)
{
	struct subst *s = subst_of(1, one, PLACE_QUERY, ""), *l = subst_of(2, two, PLACE_QUERY, ""), *bad;
	static const char *const digits[][2] = {{"41__PH__", "x"}};

	expect("plain", s, &subst_plain, 0, "a__PH____PH__b_", "as/e+c \"r&<e>\\t's/e+c \"r&<e>\\t'b_");
	expect("nothing there", s, &subst_plain, 0, "a__PH_", "a__PH_");
	expect("path", s, &subst_path, 0, "/x%5f_P%48__/y", "/xs%2Fe+c%20%22r&%3Ce%3E%5Ct'/y");
	expect("form", s, &subst_form, 0, "a=%5F%5f%50H__&b", "a=s%2Fe%2Bc%20%22r%26%3Ce%3E%5Ct%27&b");
	expect("half an escape is itself", s, &subst_form, 0, "%5%5F_PH__%", "%5s%2Fe%2Bc%20%22r%26%3Ce%3E%5Ct%27%");
	expect("an escape's digits are not text", bad = subst_of(1, digits, PLACE_QUERY, ""), &subst_form, 0, "%41__PH__", "%41__PH__");
	subst_free(bad);
	expect("the longest", l, &subst_plain, 0, "__PH__2____PH__2_", "secondfirst2_");
	subst_free(s);
	subst_free(l);
}

static void
test_bodies(void)
{
	static const char *const latin[][2] = {{"__PH__", "s\xe9"}};
	struct subst *s = subst_of(1, one, PLACE_JSON, "a|b/c|"), *l = subst_of(2, two, PLACE_JSON, "0|"), *f = subst_of(2, two, PLACE_FORM, "a b"), *bad;

	expect("JSON", s, NULL, SUBST_JSON, "{\"a\":{\"b/c\":\"\\u005f_PH__\"}, \"b\":\"__PH__\"}",
	    "{\"a\":{\"b/c\":\"s/e+c \\\"r&<e>\\\\t'\"}, \"b\":\"__PH__\"}");
	expect("JSON: a key that is escaped", s, NULL, SUBST_JSON, "{\"\\u0061\":{\"b\\/c\":\"__PH__\"}}",
	    "{\"\\u0061\":{\"b\\/c\":\"s/e+c \\\"r&<e>\\\\t'\"}}");
	expect("JSON: no other depth, no key, no list", s, NULL, SUBST_JSON,
	    "{\"b/c\":\"__PH__\",\"a\":{\"a\":{\"b/c\":\"__PH__\"},\"b/c\":[\"__PH__\"],\"__PH__\":1},\"c\":{\"b/c\":\"__PH__\"}}",
	    "{\"b/c\":\"__PH__\",\"a\":{\"a\":{\"b/c\":\"__PH__\"},\"b/c\":[\"__PH__\"],\"__PH__\":1},\"c\":{\"b/c\":\"__PH__\"}}");
	expect("JSON: a number is a list's, or a name", l, NULL, SUBST_JSON, "[\"__PH__\",\"__PH__\",[\"__PH__\"]]", "[\"first\",\"__PH__\",[\"__PH__\"]]");
	expect("JSON: a number as a name", l, NULL, SUBST_JSON, "{\"0\":\"__PH__2__\",\"00\":\"__PH__\"}", "{\"0\":\"second\",\"00\":\"__PH__\"}");
	expect("JSON: outside of strings it is none", s, NULL, SUBST_JSON, "[1,__PH__]", NULL);
	expect("JSON: a member that is there twice", s, NULL, SUBST_JSON, "{\"a\":{\"b/c\":\"__PH__\",\"b\\u002fc\":1}}", NULL);
	expect("JSON: one on its way that is there twice", s, NULL, SUBST_JSON, "{\"a\":{\"b/c\":\"__PH__\"},\"a\":1}", NULL);
	expect("JSON: twice, before it", s, NULL, SUBST_JSON, "{\"a\":1,\"a\":{\"b/c\":\"__PH__\"}}", NULL);
	expect("JSON: twice, and nothing there", s, NULL, SUBST_JSON, "{\"a\":1,\"a\":{\"b/c\":\"PH\"}}", "{\"a\":1,\"a\":{\"b/c\":\"PH\"}}");
	expect("JSON: others may be there twice", s, NULL, SUBST_JSON, "{\"b\":1,\"b\":2,\"a\":{\"b/c\":\"__PH__\"}}",
	    "{\"b\":1,\"b\":2,\"a\":{\"b/c\":\"s/e+c \\\"r&<e>\\\\t'\"}}");
	expect("JSON: a value that is not UTF-8", bad = subst_of(1, latin, PLACE_JSON, "0|"), NULL, SUBST_JSON, "[\"__PH__\"]", NULL);
	subst_free(bad);
	expect("lines", l, NULL, SUBST_LINES, "1\n[\"__PH__\"]\n[\"__PH__\"]", "1\n[\"first\"]\n[\"first\"]");
	expect("a form", f, NULL, SUBST_FORM, "a+b=x__PH__&a%20b=__PH__2__&ab=__PH__&__PH__=a+b&a+b", "a+b=xfirst&a%20b=second&ab=__PH__&__PH__=a+b&a+b");
	expect("a form: some part it at a semicolon", f, NULL, SUBST_FORM, "a+b=1;c=__PH__&x;a+b=__PH__", "a+b=1;c=__PH__&x;a+b=__PH__");
	expect("other kinds", s, NULL, SUBST_OTHER, "__PH__", "__PH__");
	subst_free(s);
	subst_free(l);
	subst_free(f);
}

static void
test_header(void)
{
	static const struct { const char *name, *in, *want; } cases[] = {
		{"authorization", "Basic dTpfX1BIX18=", "Basic dTpmaXJzdA=="}, {"Authorization", "basic X19QSF9fMl9fOng=", "basic c2Vjb25kOng="},
		{"Authorization", "Basic dTpfX1BIX18", "Basic dTpfX1BIX18"}, {"Authorization", "Basic __PH__", "Basic __PH__"},
		{"Authorization", "Basic ", "Basic "}, {"Authorization", "Basic", "Basic"}, {"Authorization", "Token __PH__", "Token __PH__"},
		{"X-Basic", "Basic dTpfX1BIX18=", "Basic dTpfX1BIX18="}, {"x-KEY", "a __PH__", "a first"}, {"x-key", "Basic dTpfX1BIX18=", "Basic dTpfX1BIX18="},
		{"x-key", "Basic __PH__", "Basic first"}, {"x-keys", "__PH__", "__PH__"}, {"x-key", "", ""},
	};
	struct subst *s = subst_of(2, two, PLACE_BASIC, ""), *h = subst_of(2, two, PLACE_HEADER, "x-key");

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct buf out;
		struct subst_run t = {.s = slice_begins_nocase(slice_of(cases[i].name), SLICE("x-key")) ? h : s, .out = &out,
		    .in = {guard_copy(cases[i].in, strlen(cases[i].in)), strlen(cases[i].in)}};

		buf_init(&out, 4096);
		subst_header(&t, slice_of(cases[i].name));
		test_result(buf_ok(&out) && slice_eq(t.hits != 0 ? buf_slice(&out) : t.in, slice_of(cases[i].want)),
		    cases[i].in, "%.*s", (int)out.n, out.n != 0 ? out.p : "");
		buf_free(&out);
	}
	subst_free(s);
	subst_free(h);
}

static void
test_spans(void)
{
	static const struct { enum subst_place place; const char *in; size_t from, to; const char *want; } cases[] = {
		{PLACE_PATH, "/bot__PH__/x", 4, 10, "/botfirst/x"}, {PLACE_PATH, "/bot_%5fPH__/x", 4, 12, "/botfirst/x"},
		{PLACE_PATH, "/botx__PH__/x", 4, 11, "/botx__PH__/x"}, {PLACE_PATH, "/bot__PH__x/x", 4, 11, "/bot__PH__x/x"},
		{PLACE_PATH, "/bot__PH__/x", 4, 9, "/bot__PH__/x"}, {PLACE_PATH, "/__PH__/__PH__", 8, 14, "/__PH__/first"},
		{PLACE_PATH, "/__PH__", 1, 99, "/__PH__"}, {PLACE_PATH, "/__PH__", 7, 7, "/__PH__"}, {PLACE_PATH, "/__PH__", 9, 8, "/__PH__"},
		{PLACE_PART, "a__PH__ b__PH__c__PH__", 7, 16, "a__PH__ bfirstc__PH__"}, {PLACE_PART, "%5f_PH__", 0, 8, "%5f_PH__"},
		{PLACE_PART, "__PH__", 0, 6, "first"}, {PLACE_PART, "__PH__", 0, 7, "__PH__"},
	};
	struct subst *s = subst_of(1, two, PLACE_PATH, "");

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct buf out;
		struct subst_run t = {.s = s, .out = &out, .in = {guard_copy(cases[i].in, strlen(cases[i].in)), strlen(cases[i].in)}};

		buf_init(&out, 4096);
		s->row[0].place = cases[i].place;
		s->row[0].from = cases[i].from;
		s->row[0].to = cases[i].to;
		subst_spans(&t, cases[i].place);
		test_result(buf_ok(&out) && slice_eq(t.hits != 0 ? buf_slice(&out) : t.in, slice_of(cases[i].want)), cases[i].in, "%.*s",
		    (int)out.n, out.n != 0 ? out.p : "");
		buf_free(&out);
	}
	subst_free(s);
}

static void
test_kinds(void)
{
	static const struct { const char *type; enum subst_kind kind; } cases[] = {
		{"application/json", SUBST_JSON}, {"Application/JSON ; charset=utf-8", SUBST_JSON}, {"a/b+json", SUBST_JSON},
		{"text/html", SUBST_OTHER}, {"text/", SUBST_OTHER}, {"", SUBST_OTHER}, {";", SUBST_OTHER}, {"image/png", SUBST_OTHER},
		{"image/svg+xml", SUBST_OTHER}, {"application/x-www-form-urlencoded", SUBST_FORM}, {"application/jsonp", SUBST_OTHER},
		{"multipart/form-data; boundary=x", SUBST_PARTS}, {"multipart/mixed; boundary=x", SUBST_OTHER}, {"text/json", SUBST_JSON},
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		test_result(subst_kind_of((struct slice){guard_copy(cases[i].type, strlen(cases[i].type)), strlen(cases[i].type)}) ==
		    cases[i].kind, cases[i].type, "another kind");
}

/* -- WebSocket */
static void
subst_put_frame(struct buf *b, unsigned first, const char *text, size_t n, const char *mask)
{
	unsigned char head[14] = {(unsigned char)first};
	size_t at = 2;

	head[1] = (unsigned char)(128 | (n < 126 ? n : n < 65536 ? 126 : 127));
	if (n >= 126 && n < 65536)
		store_be16(head + 2, (uint16_t)n), at = 4;
	else if (n >= 65536)
		store_be64(head + 2, n), at = 10;
	memcpy(head + at, mask, 4);
	buf_add(b, head, at + 4);
	filter_ws_mask(b, (struct slice){text, n}, (const unsigned char *)mask);
}

/* Payloads of the text frames in a stream, one after the other; false: it is not one of whole frames. */
static bool
texts(struct slice in, struct buf *out)
{
	for (size_t at = 0; at < in.n;) {
		uint64_t len = 0;
		size_t head = filter_ws_head((const unsigned char *)in.p + at, in.n - at, &len);

		if (in.n - at < head || in.n - at - head < len)
			return false;
		filter_ws_mask(out, (struct slice){in.p + at + head, (size_t)len}, (const unsigned char *)in.p + at + head - 4);
		at += head + (size_t)len;
	}
	return true;
}

static void
stream(const char *name, const struct subst *s, struct slice in, const char *want, bool same)
{
	for (size_t step = 1; step <= in.n; step += step < 40 ? 1 : in.n) {
		struct filter *f = filter_ws_new(s);
		struct buf all, text;
		bool ok = true;

		buf_init(&all, 1 << 20);
		buf_init(&text, 1 << 20);
		for (size_t at = 0; ok && at < in.n; at += step) {
			size_t n = in.n - at < step ? in.n - at : step;

			ok = filter_feed(f, (struct slice){guard_copy(in.p + at, n), n}, false, &all);
		}
		ok = ok && filter_feed(f, SLICE(""), true, &all) && f->ended;
		if (same)
			ok = ok && slice_eq(buf_slice(&all), in);
		else
			ok = ok && texts(buf_slice(&all), &text) && slice_eq(buf_slice(&text), slice_of(want));
		if (!ok || step >= 40 || step == in.n) {
			test_result(ok, name, "in pieces of %zu: %.*s", step, (int)text.n, text.n != 0 ? text.p : "");
			step = in.n;
		}
		buf_free(&all);
		buf_free(&text);
		filter_free(f);
	}
}

static void
test_subst_websocket(void)
{
	struct subst *s = subst_of(1, one, PLACE_WS, "0|");
	struct buf in;
	static char big[SUBST_WS_MAX + 100];

	buf_init(&in, 1 << 20);
	subst_put_frame(&in, 0x81, "hello", 5, "abcd");
	subst_put_frame(&in, 0x01, "[\"__P", 5, "efgh");
	subst_put_frame(&in, 0x89, "", 0, "ijkl");
	subst_put_frame(&in, 0x80, "H__\"]", 5, "mnop");
	subst_put_frame(&in, 0x82, "__PH__", 6, "qrst");
	subst_put_frame(&in, 0x81, "[\"__PH__\"]", 10, "uvwx");
	subst_put_frame(&in, 0x81, "{\"0\":\"__PH__\",\"0\":1}", 20, "uvwx");
	subst_put_frame(&in, 0x81, "__PH__", 6, "uvwx");
	stream("a stream of messages", s, buf_slice(&in), "hello[\"s/e+c \\\"r&<e>\\\\t'\"]__PH__[\"s/e+c \\\"r&<e>\\\\t'\"]"
	    "{\"0\":\"__PH__\",\"0\":1}__PH__", false);
	buf_clear(&in);
	subst_put_frame(&in, 0xc1, "__PH__", 6, "abcd");      /* an extension's bit */
	subst_put_frame(&in, 0x83, "__PH__", 6, "abcd");      /* an opcode nobody knows */
	subst_put_frame(&in, 0x80, "__PH__", 6, "abcd");      /* the end of nothing */
	buf_add(&in, "\x81\x06__PH__", 8);              /* no mask */
	subst_put_frame(&in, 0x01, "__PH__", 6, "abcd");      /* never ends: another message begins */
	subst_put_frame(&in, 0x82, "", 0, "abcd");
	subst_put_frame(&in, 0x01, "__PH__", 6, "abcd");
	subst_put_frame(&in, 0xc0, "", 0, "abcd");
	stream("what breaks the rules goes as it came", s, buf_slice(&in), NULL, true);
	buf_clear(&in);
	subst_put_frame(&in, 0x01, "[\"__P", 5, "abcd");      /* the end of the stream within a message */
	subst_put_frame(&in, 0x88, "\3\350", 2, "efgh");
	stream("a message that a close cuts short goes before it", s, buf_slice(&in), NULL, true);
	buf_clear(&in);
	memset(big, 'x', sizeof big);
	subst_put_frame(&in, 0x01, "__PH__", 6, "abcd");
	subst_put_frame(&in, 0x80, big, sizeof big, "abcd");
	stream("and so does more than is held", s, buf_slice(&in), NULL, true);
	buf_clear(&in);
	buf_add(&in, "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff" "abcd" "xyz", 17);
	stream("and a length beyond all bounds", s, buf_slice(&in), NULL, true);
	buf_free(&in);
	subst_free(s);
}

/* -- known placeholders */
static void
test_known(void)
{
	struct known k = {.text = {.max = 1 << 20}};
	char text[64];
	size_t wrong = 0;

	for (unsigned i = 0; i < 3000; i++) {
		snprintf(text, sizeof text, "tok_%08x%08x-end", i * 2654435761u, ~i * 40503u);
		if (!known_add(&k, (struct slice){(char *)&i, sizeof i}, slice_of(text), 20))
			abort();
	}
	for (unsigned i = 0; i < 3000; i++) {
		struct known_found found = {.n = 0};
		char head[128];
		size_t n;

		snprintf(text, sizeof text, "tok_%08x%08x-end", i * 2654435761u, ~i * 40503u);
		n = (size_t)snprintf(head, sizeof head, "/a/%s%s/b", i % 2 ? "x" : "", text);
		known_scan(&k, (struct slice){guard_copy(head, n), n}, &found);
		wrong += found.n != 1 || found.id[0] != i + 1;
		found.n = 0;
		n = (size_t)snprintf(head, sizeof head, "/a/%.*s", (int)strlen(text) - 1, text);
		known_scan(&k, (struct slice){guard_copy(head, n), n}, &found);
		wrong += found.n;
		known_scan(&k, (struct slice){guard_copy(text + 1, strlen(text) - 1), strlen(text) - 1}, &found);
		wrong += found.n;
	}
	test_result(wrong == 0, "of 3000 each is found, whole and alone", "%zu are not", wrong);
	{
		struct known_found found = {.n = 0};

		snprintf(text, sizeof text, "?a=%%74ok_%08x%08x%%2dend", 7 * 2654435761u, ~7u * 40503u);
		known_scan_encoded(&k, slice_of(text), &found);
		test_result(found.n == 1 && found.id[0] == 8, "percent-encoded", "%zu", found.n);
		found.n = 0;
		known_add(&k, SLICE("basic"), SLICE("user:pass-0123456789"), 20);
		known_scan_value(&k, SLICE("Basic dXNlcjpwYXNzLTAxMjM0NTY3ODk="), &found);
		test_result(found.n == 1 && slice_eq(known_name(&k, found.id[0]), SLICE("basic")), "in Basic", "%zu", found.n);
		found.n = 0;
		known_drop(&k, SLICE("basic"));
		known_scan(&k, SLICE("user:pass-0123456789"), &found);
		test_result(found.n == 0 && k.dropped == 1, "what was dropped is found no more", "%zu", found.n);
	}
	known_wipe(&k);
}

int
main(void)
{
	if (!secret_init())
		return 1;
	test_codes();
	test_bodies();
	test_header();
	test_spans();
	test_kinds();
	test_subst_websocket();
	test_known();
	return test_end();
}
