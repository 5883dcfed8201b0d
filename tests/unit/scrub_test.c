/* The way back: what an answer repeats of a secret. Spellings are written here, character by character, and looked for
 * in heads, in whole bodies and in bodies that come in pieces. */
#include PROXY_C
#include "guard.h"

static struct scrub_tally tally = {.free = true};
static uint64_t seed = 0x5a11b007;

static unsigned
below(unsigned n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(seed >> 33) % n;
}

static struct scrub *
scrub_of(const char *value, size_t n, const char *sent, const char *param)
{
	struct scrub *s = NULL;
	struct secret *secret = secret_copy(value, n);

	if (!scrub_add(&s, secret, 0, sent != NULL ? slice_of(sent) : (struct slice){NULL, 0}, slice_of(param), false))
		abort();
	secret_unref(secret);
	return s;
}

static struct filter *
filter_of(struct scrub *s, uint64_t left, bool strict, struct slice coding, struct scrub_tally *to, size_t *share)
{
	const struct scrub_table *t;

	return scrub_table(s, true, &t) && t != NULL ? filter_scrub_new(s, t, left, strict, coding, to, share) : NULL;
}

/* -- heads */
static void
back(const char *name, const char *secret, const char *sent, const char *param, const char *in, const char *want)
{
	struct scrub *s = scrub_of(secret, strlen(secret), sent, param);
	struct slice text = {guard_copy(in, strlen(in)), strlen(in)};
	struct buf out;
	bool ok;

	buf_init(&out, 4096);
	ok = scrub_put(s, text, &out) && scrub_in(s, text) == (strcmp(in, want) != 0);
	test_result(ok && slice_eq(buf_slice(&out), slice_of(want)), name, "%.*s", (int)out.n, out.n != 0 ? out.p : "");
	for (size_t n = 0; n < strlen(in); n++) {
		buf_clear(&out);
		scrub_put(s, (struct slice){guard_copy(in, n), n}, &out);
		scrub_in(s, (struct slice){guard_copy(in, n), n});
	}
	buf_free(&out);
	scrub_free(s);
}

/* Behind 0 to 2 bytes and before 0 to 2, in both alphabets, with and without padding, as it is and percent-encoded:
 * none of the characters that its bits are in is left. */
static void
test_base64(void)
{
	static const char value[] = "pass~?\xff\xfe-word";
	struct scrub *s = scrub_of(value, sizeof value - 1, "<>", "");
	unsigned wrong = 0;

	for (unsigned i = 0; i < 3 * 3 * 2 * 2 * 2; i++) {
		unsigned before = i % 3, behind = i / 3 % 3, url = i / 9 % 2, cut = i / 18 % 2, percent = i / 36;
		char plain[64], text[256], want[256], code[128];
		size_t n = before + sizeof value - 1 + behind, first = 8 * before / 6, last = (8 * (before + sizeof value - 1) + 5) / 6, k = 0;
		struct buf out;

		memcpy(plain, "u:", 2);
		memcpy(plain + before, value, sizeof value - 1);
		memcpy(plain + n - behind, "xy", 2);
		n = b64_encode(code, plain, n, url);
		while (cut && n != 0 && code[n - 1] == '=')
			n--;
		for (size_t c = 0; c < n; c++)
			k += (size_t)snprintf(text + k, sizeof text - k, percent && c % 2 == 0 ? "%%%02x" : "%c", code[c]);
		if (!percent)
			snprintf(want, sizeof want, "%.*s<>%.*s", (int)first, code, (int)(n - last), code + last);
		buf_init(&out, 4096);
		if (!scrub_put(s, (struct slice){guard_copy(text, k), k}, &out) || !scrub_in(s, (struct slice){text, k}) ||
		    (!percent && !slice_eq(buf_slice(&out), slice_of(want))) || memmem(out.p, out.n, "<>", 2) == NULL ||
		    out.n > 2 + (first + n - last) * 3) {
			printf("# %u: %.*s became %.*s, not %s\n", i, (int)k, text, (int)out.n, out.p, percent ? "" : want);
			wrong++;
		}
		buf_free(&out);
	}
	test_result(wrong == 0, "in Base64, wherever it stands in it", "%u are wrong", wrong);
	scrub_free(s);
}

static void
test_heads(void)
{
	struct scrub *s = NULL;
	size_t i;

	back("as it is", "a+b c%41", "PH", "", "x=a+b c%41&a+b", "x=PH&a+b");
	back("encoded, in part and in whole", "aaa/bb:c", "PH", "", "/aaa/bb:c/aaa%2Fbb:c/%61aa%2fbb%3Ac/a%2", "/PH/PH/PH/a%2");
	back("encoded twice", "aa/bbbbb", "PH", "", "u=aa%252Fbbbbb%25", "u=PH%25");
	back("plus for a space", "a b+cdef", "PH", "", "a+b+cdef a%20b%2Bcdef a+b%20cdef", "PH PH a+b%20cdef");
	back("plus for a space, encoded", "canary a b", "PH", "", "canary%20a%2Bb canary%2Ba%252Bb canary+a%2520b", "PH PH PH");
	back("one that has an escape in it", "canary%41-x", "PH", "", "canary%41-x canary%2541-x %63anary%252541%252dx", "PH PH PH");
	back("encoded where it ends", "0123456789/", "PH", "", "0123456789%2f 0123456789%252F 0123456789%2", "PH PH 0123456789%2");
	back("of eight bytes", "canary/8", "PH", "", "xcanary/8 canary%2f8 Y2FuYXJ5Lzg= eGNhbmFyeS84 eHhjYW5hcnkvOA", "xPH PH PH= ePH eHPH");
	back("less than eight are not looked for", "canary/", "PH", "", "canary/ Y2FuYXJ5Lw", "canary/ Y2FuYXJ5Lw");
	back("in hexadecimal", "canary/8", "PH", "", "63616e6172792f38 (63616E6172792F38) 63616e6172792f3", "PH (PH) 63616e6172792f3");
	back("in JSON", "can\"ry\\8", "PH", "", "can\\\"ry\\\\8 \\u0063an\\u0022ry\\u005c8", "PH PH");
	back("in HTML, a number that ends without ';' before hexadecimal digits", "Aa1bcdefghijklmnopq", "PH", "",
	    "see &#65a1bcdefghijklmnopq and a good deal of text behind it, more than forty bytes", "see PH and a good deal of text behind it, more than forty bytes");
	back("in HTML", "can\"ry&8", "PH", "", "can&quot;ry&amp;8 &#99;an&#x22;ry&#38;8 can&quot;ry&am;8", "PH PH can&quot;ry&am;8");
	back("ours leaves with its name", "secret-8", NULL, "key", "/?a=1&key=secret-8&b=2", "/?a=1&b=2");
	back("the only one", "secret-8", NULL, "key", "/?key=secret-8", "/");
	back("the first", "secret-8", NULL, "key", "/?key=secret-8&b=2", "/?b=2");
	back("twice", "secret-8", NULL, "key", "/?key=secret-8&key=secret-8", "/?");
	back("under another name", "secret-8", NULL, "key", "/?xkey=secret-8&key=xsecret-8", "/?xkey=&key=x");
	back("alone", "secret-8", NULL, "key", "key=secret-8", "key=");
	back("a long one, as it is", "sk-live-0123456789", "PH", "", "https://sk-live-0123456789 sk-live-012345678", "https://PH sk-live-012345678");
	back("a long one, encoded", "sk/live=0123456789", "PH", "", "sk%2Flive%3d%30123456789;sk%252flive%253D0123456789", "PH;PH");
	back("not there", "sk-live-0123456789", "PH", "", "sk-live-0123456788 sk%2dlive%2D0123456788", "sk-live-0123456788 sk%2dlive%2D0123456788");
	test_base64();
	for (i = 0; i <= SCRUB_VALUES_MAX + 1; i++) {
		struct secret *secret = secret_copy(&i, sizeof i);
		bool ok = scrub_add(&s, secret, 0, SLICE("x"), SLICE(""), false);

		secret_unref(secret);
		if (!ok)
			break;
	}
	test_result(i == SCRUB_VALUES_MAX, "no more than the bound are noted", "%zu", i);
	scrub_free(s);
}

/* -- every form in every coding */

/* Adds a character as a coding may spell it. `often`: of eight, so many are escaped. */
static void
put_char(struct buf *b, unsigned char c, unsigned coding, unsigned often)
{
	static const char *const names[] = {"\"quot", "&amp", "<lt", ">gt", "'apos", "_lowbar", "/sol", ".period", "+plus", "=equals", "%percnt"};
	bool must = (coding == SCRUB_JSON && (c == '"' || c == '\\' || c < 32)) || (coding == SCRUB_HTML && c == '&') ||
	    (coding == SCRUB_PERCENT && c == '%') || (coding == SCRUB_TWICE && c == '%');

	if (coding == SCRUB_RAW || (!must && below(8) >= often)) {
		buf_add(b, &c, 1);
		return;
	}
	switch (coding) {
	case SCRUB_PERCENT:
		buf_addf(b, below(2) ? "%%%02x" : "%%%02X", c);
		break;
	case SCRUB_TWICE:
		buf_addf(b, below(2) ? "%%25%02x" : "%%25%02X", c);
		break;
	case SCRUB_JSON:
		if (strchr("\"\\/", c) != NULL && below(2))
			buf_addf(b, "\\%c", c);
		else
			buf_addf(b, below(2) ? "\\u%04x" : "\\u%04X", c);
		break;
	default:
		for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
			if (names[i][0] == c && below(2)) {
				buf_addf(b, "&%s;", names[i] + 1);
				return;
			}
		buf_addf(b, below(3) == 0 ? "&#%u;" : below(2) ? "&#x%x;" : "&#X00%X;", c);
		break;
	}
}

static void
put_spelling(struct buf *b, struct slice value, unsigned form, unsigned coding, unsigned often)
{
	char text[512];
	size_t n = 0, from = 0, to;

	if (form <= SCRUB_PLUS) {
		for (size_t i = 0; i < value.n; i++)
			text[n++] = form == SCRUB_PLUS && value.p[i] == ' ' ? '+' : value.p[i];
	} else if (form == SCRUB_HEX) {
		n = hex_encode(text, value.p, value.n);
		if (below(2))
			for (size_t i = 0; i < n; i++)
				text[i] = (char)toupper((unsigned char)text[i]);
	} else {
		unsigned before = (form - SCRUB_STD) % 3;
		char plain[256];

		memcpy(plain, "u:", before);
		memcpy(plain + before, value.p, value.n);
		n = b64_encode(text, plain, before + value.n, form >= SCRUB_URL);
		while (n != 0 && text[n - 1] == '=')
			n--;
		from = before;  /* the first before + 1 characters have other bits; so many are no part of the value */
	}
	to = n;
	for (size_t i = from; i < to; i++)
		put_char(b, (unsigned char)text[i], coding, often);
}

static void
put_noise(struct buf *b, size_t n)
{
	static const char words[] = "sk-live\\u00%25%&amp;&#x\"{:,abcXYZ019+/=_-\\\\%2";

	while (n-- != 0)
		buf_add(b, words + below(sizeof words - 1), 1);
}

/* The body as it comes out when it comes in pieces. */
static bool
in_pieces(struct scrub *s, struct slice in, unsigned most, struct buf *out)
{
	struct filter *f = filter_of(s, UINT64_MAX, false, SLICE(""), &tally, NULL);
	bool ok = f != NULL;

	for (size_t at = 0; ok && at < in.n;) {
		size_t n = most == 0 ? in.n : 1 + below(most);

		if (n > in.n - at)
			n = in.n - at;
		ok = filter_feed(f, (struct slice){guard_copy(in.p + at, n), n}, false, out);
		at += n;
	}
	ok = ok && filter_feed(f, SLICE(""), true, out) && f->ended && f->hold_until == 0;
	filter_free(f);
	return ok;
}

/* Is what came in pieces as it should be: as long, the same around the spelling, and of that no more left than
 * went on before more of it came? Characters that have bits of other bytes, too, may have gone before `at` and behind `end`. */
static bool
overwritten(const struct buf *got, const struct buf *text, size_t at, size_t end)
{
	size_t same = 0;

	for (size_t i = 0; got->n == text->n && i < got->n; i++) {
		if (got->p[i] == text->p[i])
			same++;
		else if (i + SCRUB_UNIT_MAX < at || i >= end + SCRUB_UNIT_MAX)
			return false;
		else
			same = 0;
		if (same >= SCRUB_HOLD_MIN + 4 && i + 1 >= at + SCRUB_HOLD_MIN + 4 && i < end)
			return false;   /* 4: what is put there may be the same by chance */
	}
	return got->n == text->n;
}

static void
test_forms(void)
{
	static const char any[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/_-=.:\"\\&<%' ";
	unsigned missed = 0, other = 0, length = 0;

	for (unsigned round = 0; round < 6000; round++) {
		char value[80];
		size_t n = 16 + below(round % 5 == 0 ? 60 : 8);
		unsigned form = below(SCRUB_FORMS), coding = below(SCRUB_CODINGS), often = below(4) * below(4);
		struct buf text, whole, pieces;
		struct scrub *s;
		size_t at, end;

		for (size_t i = 0; i < n; i++)
			value[i] = any[below(sizeof any - 1)];
		s = scrub_of(value, n, "PLACEHOLDER", "");
		buf_init(&text, 1 << 20);
		buf_init(&whole, 1 << 20);
		buf_init(&pieces, 1 << 20);
		put_noise(&text, below(60));
		at = text.n;
		put_spelling(&text, (struct slice){value, n}, form, coding, often);
		end = text.n;
		put_noise(&text, below(60));
		if (!in_pieces(s, buf_slice(&text), 0, &whole) || !in_pieces(s, buf_slice(&text), 1 + below(40), &pieces))
			length++;
		/* all but its first and last character, which may have bits of other bytes, is overwritten */
		if (whole.n != text.n || (memmem(whole.p, whole.n, "LACEHO", 6) == NULL && form <= SCRUB_PLUS) ||
		    (whole.n == text.n && memcmp(whole.p + at, text.p + at, end - at) == 0)) {
			if (missed++ < 5)
				printf("# missed: %.*s in form %u, coding %u: %.*s\n", (int)n, value, form, coding, (int)text.n, text.p);
		} else if (!overwritten(&pieces, &text, at + (scrub_forms[form].lead != 0 ? SCRUB_UNIT_MAX : 0),
		    end - (form >= SCRUB_STD ? SCRUB_UNIT_MAX : 0))) {
			if (other++ < 5)
				printf("# other in pieces: form %u, coding %u: %.*s: %.*s: %.*s\n", form, coding, (int)text.n, text.p,
				    (int)whole.n, whole.p, (int)pieces.n, pieces.p);
		}
		scrub_free(s);
		buf_free(&text);
		buf_free(&whole);
		buf_free(&pieces);
	}
	test_result(missed == 0, "every form in every coding is overwritten", "%u were missed", missed);
	test_result(other == 0, "and in pieces as in one", "%u differ", other);
	test_result(length == 0, "and no byte is lost or held", "%u", length);
}

/* -- WebSockets: what a server sends */
static void
put_frame(struct buf *b, unsigned first, struct slice payload)
{
	unsigned char head[10] = {(unsigned char)first, (unsigned char)payload.n};
	size_t n = 2;

	if (payload.n > 0xffff || (payload.n <= 125 && below(8) == 0)) {
		head[1] = 127;
		store_be64(head + 2, payload.n);
		n = 10;
	} else if (payload.n > 125 || below(8) == 0) {
		head[1] = 126;
		store_be16(head + 2, (uint16_t)payload.n);
		n = 4;
	}
	buf_add(b, head, n);
	buf_addv(b, payload);
}

/* Messages of text in fragments with pings between, and binary ones: the frames stay, and of the text what
 * scrub_body leaves of it. */
static void
test_websocket(void)
{
	static const char value[] = "wv_0123456789abcdefXYZ";
	unsigned wrong = 0, passed = 0;

	for (unsigned round = 0; round < 3000; round++) {
		struct scrub *s = scrub_of(value, sizeof value - 1, "PLACEHOLDER", "");
		const struct scrub_table *t;
		struct filter *f = NULL;
		struct buf sent, text, got, want;
		bool ok, binary = below(4) == 0, held = false;
		size_t k = 0;

		buf_init(&sent, 1 << 20);
		buf_init(&text, 1 << 20);
		buf_init(&got, 1 << 20);
		buf_init(&want, 1 << 20);
		put_noise(&text, below(300));
		put_spelling(&text, (struct slice){value, sizeof value - 1}, below(SCRUB_FORMS), below(SCRUB_CODINGS), below(3));
		put_noise(&text, below(300));
		for (size_t at = 0; at < text.n || at == 0;) {
			size_t n = below(40) == 0 ? text.n - at : 1 + below(60);

			n = n > text.n - at ? text.n - at : n;
			put_frame(&sent, (at + n == text.n ? 0x80u : 0) | (at != 0 ? 0u : binary ? 2u : 1u), (struct slice){text.p + at, n});
			at += n;
			if (below(3) == 0)
				put_frame(&sent, 0x89, SLICE("wv_01234 ping"));
		}
		ok = scrub_table(s, true, &t) && (f = filter_scrub_ws_new(s, t, &tally, NULL)) != NULL;
		for (size_t at = 0; ok && at < sent.n;) {
			size_t n = 1 + below(50);

			n = n > sent.n - at ? sent.n - at : n;
			ok = filter_feed(f, (struct slice){guard_copy(sent.p + at, n), n}, false, &got);
			held = held || f->hold_until != 0;
			at += n;
		}
		ok = ok && f->hold_until == 0 && got.n == sent.n; /* the message has ended: all of it is there */
		for (size_t at = 0; ok && at < got.n;) {        /* the same frames */
			uint64_t len = 0;
			size_t head = filter_ws_head((const unsigned char *)got.p + at, got.n - at, &len);

			ok = memcmp(got.p + at, sent.p + at, head) == 0;
			if ((got.p[at] & 15) < 3)
				buf_add(&want, got.p + at + head, (size_t)len);
			else
				ok = ok && memcmp(got.p + at, sent.p + at, head + (size_t)len) == 0;
			at += head + (size_t)len;
		}
		for (; ok && k < want.n && want.p[k] == text.p[k]; k++)
			;
		wrong += !ok || want.n != text.n || (binary ? k != text.n || held : k == text.n || scrub_in(s, buf_slice(&want)));
		passed += ok && !binary;
		filter_free(f);
		scrub_free(s);
		buf_free(&sent);
		buf_free(&text);
		buf_free(&got);
		buf_free(&want);
	}
	test_result(wrong == 0 && passed > 1000, "text messages are searched over the borders of frames, and frames stay", "%u of 3000", wrong);
}

/* With SCRUB_ALL: binary messages, too, and pings, each by itself, wherever they come. */
static void
test_websocket_all(void)
{
	static const char value[] = "wv_0123456789abcdefXYZ";
	struct scrub_tally all = {.free = true, .all = true};
	unsigned wrong = 0, hits = 0;

	for (unsigned round = 0; round < 2000; round++) {
		struct scrub *s = scrub_of(value, sizeof value - 1, "PLACEHOLDER", "");
		const struct scrub_table *t;
		struct filter *f = NULL;
		struct buf sent, text, got, ping;
		bool ok;

		buf_init(&sent, 1 << 20);
		buf_init(&text, 1 << 20);
		buf_init(&got, 1 << 20);
		buf_init(&ping, 1 << 20);
		put_noise(&text, below(200));
		put_spelling(&text, (struct slice){value, sizeof value - 1}, below(SCRUB_FORMS), below(SCRUB_CODINGS), below(3));
		for (size_t at = 0; at < text.n;) {
			size_t n = 1 + below(60);

			n = n > text.n - at ? text.n - at : n;
			put_frame(&sent, (at + n == text.n ? 0x80u : 0) | (at != 0 ? 0u : 1 + below(7)), (struct slice){text.p + at, n});
			at += n;
			if (below(2) == 0) {
				buf_clear(&ping);
				put_noise(&ping, below(30));
				put_spelling(&ping, (struct slice){value, sizeof value - 1}, SCRUB_PLAIN, below(SCRUB_CODINGS), below(2));
				put_frame(&sent, 0x89 + below(7), (struct slice){ping.p, ping.n > 125 ? 125 : ping.n});
				hits += ping.n <= 125;
			}
		}
		ok = scrub_table(s, true, &t) && (f = filter_scrub_ws_new(s, t, &all, NULL)) != NULL;
		buf_clear(&text);
		for (size_t at = 0; ok && at < sent.n;) {
			size_t n = 1 + below(50);

			n = n > sent.n - at ? sent.n - at : n;
			ok = filter_feed(f, (struct slice){guard_copy(sent.p + at, n), n}, false, &got);
			at += n;
		}
		ok = ok && f->hold_until == 0 && got.n == sent.n;
		for (size_t at = 0; ok && at < got.n;) {
			uint64_t len = 0;
			size_t head = filter_ws_head((const unsigned char *)got.p + at, got.n - at, &len);

			ok = memcmp(got.p + at, sent.p + at, head) == 0;
			if ((got.p[at] & 15) < 8)
				buf_add(&text, got.p + at + head, (size_t)len);
			else
				ok = ok && !scrub_in(s, (struct slice){got.p + at + head, (size_t)len});
			at += head + (size_t)len;
		}
		wrong += !ok || scrub_in(s, buf_slice(&text));
		filter_free(f);
		scrub_free(s);
		buf_free(&sent);
		buf_free(&text);
		buf_free(&got);
		buf_free(&ping);
	}
	test_result(wrong == 0 && hits > 1000 && all.hits >= hits + 2000, "with scrub=all every frame is searched", "%u of 2000, %u of %u", wrong, all.hits, hits);
}

/* Frames that cannot be read where they must be end the connection; where nothing is searched they go on. */
static void
test_websocket_unread(void)
{
	static const struct { const char *frame; bool text, all; } cases[] = {    /* does it end: usually, with SCRUB_ALL? */
	    {"\xc1\x01x", true, true}, {"\xa1\x01x", true, true}, {"\x91\x01x", true, true}, {"\x81\x81mask!", true, true}, {"\xc8\x03\x03\xe8x", true, true},
	    {"\x01\x01x\xc0\x01y", true, true}, {"\x01\x01x\x80\x81mask!", true, true}, {"\xc2\x01x", false, true}, {"\x82\x81mask!", false, true},
	    {"\xc9\x01x", false, true}, {"\x8a\x81mask!", false, true}, {"\x8f\x81mask!", false, true}, {"\x02\x01x\xc0\x01y", false, true},
	    {"\x81\x01x", false, false}, {"\x82\x01x", false, false}, {"\x89\x01x", false, false}, {"\x88\x03\x03\xe8x", false, false}};

	for (unsigned i = 0; i < 2 * COUNT(cases); i++) {
		bool all = i % 2 != 0, ends = all ? cases[i / 2].all : cases[i / 2].text, ok;
		struct scrub *s = scrub_of("wv_0123456789abcdefXYZ", 22, "PLACEHOLDER", "");
		struct scrub_tally to = {.free = true, .all = all};
		struct filter *f = NULL;
		struct buf got;
		const struct scrub_table *t;

		buf_init(&got, 4096);
		ok = scrub_table(s, true, &t) && (f = filter_scrub_ws_new(s, t, &to, NULL)) != NULL &&
		    filter_feed(f, slice_of(cases[i / 2].frame), false, &got);
		test_result(ok != ends && (ok || (f->fault != NULL && strcmp(f->fault->code, "scrub_hit") == 0)),
		    ends ? "a frame that cannot be read ends it" : "one that is not searched, or can be, goes on", "%u", i);
		filter_free(f);
		scrub_free(s);
		buf_free(&got);
	}
}

/* A text that may become a secret goes on when its time is over; the rest of the secret is overwritten. */
static void
test_websocket_hurry(void)
{
	struct scrub *s = scrub_of("wv_0123456789abcdefXYZ", 22, "PLACEHOLDER", "");
	struct filter *f = NULL;
	struct buf got;
	const struct scrub_table *t;
	bool ok = scrub_table(s, true, &t) && (f = filter_scrub_ws_new(s, t, &tally, NULL)) != NULL;

	buf_init(&got, 4096);
	ok = ok && filter_feed(f, SLICE("\x01\x15see wv_0123456789abcd"), false, &got) && got.n == 6 && f->hold_until != 0 &&
	    filter_feed(f, SLICE("\x89\x01p"), false, &got) && got.n == 6;
	f->hurry = true;
	ok = ok && filter_feed(f, SLICE(""), false, &got) && f->hold_until == 0 && slice_eq(buf_slice(&got), SLICE("\x01\x15see wv_0123456789abcd\x89\x01p"));
	test_result(ok, "a beginning and the ping behind it go on in time", "%.*s", (int)got.n, got.p);
	filter_free(f);
	scrub_free(s);
	buf_free(&got);
}

/* A text in frames of a byte, which all come at once. */
static void
test_websocket_bytes(void)
{
	static const char value[] = "wv_0123456789abcdefXYZ";
	struct scrub *s = scrub_of(value, sizeof value - 1, "PLACEHOLDER", "");
	struct filter *f = NULL;
	struct buf sent, got, text;
	const struct scrub_table *t;
	bool ok = scrub_table(s, true, &t) && (f = filter_scrub_ws_new(s, t, &tally, NULL)) != NULL;

	buf_init(&sent, 1 << 16);
	buf_init(&got, 1 << 16);
	buf_init(&text, 1 << 16);
	for (size_t i = 0; i < 1000; i++) {
		char c = i % 37 < sizeof value - 1 ? value[i % 37] : 'x';

		put_frame(&sent, i == 0 ? 1 : i == 999 ? 0x80 : 0, (struct slice){&c, 1});
	}
	ok = ok && filter_feed(f, buf_slice(&sent), false, &got) && got.n == sent.n;
	for (size_t at = 0; ok && at < got.n;) {
		uint64_t len = 0;

		at += filter_ws_head((const unsigned char *)got.p + at, got.n - at, &len);
		buf_add(&text, got.p + at++, 1);
	}
	test_result(ok && text.n == 1000 && memmem(text.p, text.n, value, 12) == NULL, "in frames of a byte too", "%.*s", (int)text.n, text.n != 0 ? text.p : "");
	filter_free(f);
	scrub_free(s);
	buf_free(&sent);
	buf_free(&got);
	buf_free(&text);
}

/* A long secret, each character of which takes twenty bytes, comes byte by byte: what is held is not searched from its
 * beginning with each of them, the work counts for the turn, and all is overwritten. */
static void
test_byte_by_byte(void)
{
	char value[2001];
	struct filter *f = NULL;
	struct scrub *s;
	struct buf text, got;
	const struct scrub_table *t;
	uint64_t work = 0;
	bool ok;

	for (size_t i = 0; i < sizeof value - 1; i++)
		value[i] = b64_url[below(64)];
	s = scrub_of(value, sizeof value - 1, "PLACEHOLDER", "");
	buf_init(&text, 1 << 20);
	buf_init(&got, 1 << 20);
	buf_adds(&text, "see ");
	for (size_t i = 0; i < sizeof value - 1; i++)
		buf_addf(&text, "&#x%016x;", (unsigned)(unsigned char)value[i]);
	ok = scrub_table(s, true, &t) && (f = filter_of(s, UINT64_MAX, false, SLICE(""), &tally, NULL)) != NULL;
	for (size_t at = 0; ok && at < text.n; at++) {
		ok = filter_feed(f, (struct slice){text.p + at, 1}, false, &got);
		work += f->cost;
		f->cost = 0;
	}
	ok = ok && filter_feed(f, SLICE(""), true, &got) && got.n == text.n &&
	    /* under 8 bytes are not held, and the escape that had begun is one still */
	    memcmp(got.p, "see &#x0000000000000044;***", 27) == 0 && memchr(got.p + 5, '&', got.n - 5) == NULL;
	test_result(ok && work > text.n && work < 64 * text.n, "byte by byte, a long one costs a few searches", "%llu for %zu bytes: %.40s",
	    (unsigned long long)work, text.n, got.n != 0 ? got.p : "");
	filter_free(f);
	scrub_free(s);
	buf_free(&text);
	buf_free(&got);
}

/* A secret with a period, and a text in which it nearly stands at every place: what one piece costs is bounded and counts for
 * the turn. A short one passes unharmed; of a long one the answer ends, as a hit does. */
static void
period(const char *name, size_t n, unsigned block, bool escapes, bool passes)
{
	char *value = malloc(n);
	struct filter *f;
	struct scrub *s;
	struct buf text, got, body;
	uint64_t most = 0;
	size_t at;
	bool ok = true, in;

	for (size_t i = 0; i < n; i++)
		value[i] = i < block ? (char)('a' + below(26)) : value[i - block];
	s = scrub_of(value, n, "PLACEHOLDER", "");
	buf_init(&text, 1 << 20);
	buf_init(&got, 1 << 20);
	buf_init(&body, 1 << 20);
	while (text.n < 256 * 1024) {
		buf_add(&text, value, n - 1);
		buf_adds(&text, escapes ? "%21&amp;\\u0041!" : "!");
	}
	f = filter_of(s, UINT64_MAX, false, SLICE(""), &tally, NULL);
	for (at = 0; ok && at < text.n; at += PEER_PIECE) {
		size_t most_n = text.n - at < PEER_PIECE ? text.n - at : PEER_PIECE;

		ok = filter_feed(f, (struct slice){guard_copy(text.p + at, most_n), most_n}, false, &got);
		most = f->cost > most ? f->cost : most;
		f->cost = 0;
	}
	ok = ok && filter_feed(f, SLICE(""), true, &got) && slice_eq(buf_slice(&got), buf_slice(&text));
	test_result(ok == passes && (ok || (f->fault == &filter_scrub_dear && at <= 64 * 1024)) &&
	    most <= SCRUB_DEBT_MAX + (SCRUB_FREE + 1) * (PEER_PIECE + n) + 4 * n, name, "%d at %zu, %llu", ok, at, (unsigned long long)most);
	s->debt = 0;
	buf_addv(&body, (struct slice){text.p, 16384});
	in = scrub_in(s, (struct slice){text.p, 65536});
	ok = s->debt <= SCRUB_DEBT_MAX + 4 * (int64_t)n && in == !passes && (s->debt = 0) == 0 && scrub_body(s, &body, &tally) && body.n != 0 && s->debt <= SCRUB_DEBT_MAX + 4 * (int64_t)n;
	test_result(ok, "and in a head, and in a held body", "%lld", (long long)s->debt);
	s->debt = 2 * SCRUB_DEBT_MAX;
	ok = !scrub_in(s, SLICE("HTTP/1.1 204 No Content"));
	test_result(ok, "and what comes later is searched as ever", "it is not");
	filter_free(f);
	scrub_free(s);
	free(value);
	buf_free(&text);
	buf_free(&got);
	buf_free(&body);
}

/* -- encoded bodies */

/* One piece that becomes 2 MB is decoded in several turns, and a secret behind it is still found. What the filter holds is
 * counted as its agent's, as long as it is there. */
static void
test_inflate_turns(void)
{
	static const char value[] = "inflated-0123456789-canary";
	struct scrub *s = scrub_of(value, sizeof value - 1, "PLACEHOLDER", "");
	struct buf text, coded, got;

	buf_init(&text, 8 << 20);
	buf_init(&coded, 1 << 20);
	buf_init(&got, 1 << 20);
	while (text.n < (2 << 20)) {
		for (unsigned i = 0; i < 24; i++)
			buf_add(&text, &(char){(char)below(256)}, 1);
		for (unsigned i = 0; i < 4000; i++)
			buf_add(&text, "x", 1);
	}
	for (unsigned hit = 0; hit < 2; hit++) {
		z_stream z = {0};
		struct filter *f = NULL;
		size_t share = 0, runs = 0;
		uint64_t most = 0;
		bool ended = false, counted, ok;
		ssize_t took = 0;

		if (hit)
			buf_add(&text, value, sizeof value - 1);
		buf_clear(&coded);
		ok = deflateInit2(&z, 9, Z_DEFLATED, 31, 9, Z_DEFAULT_STRATEGY) == Z_OK && buf_reserve(&coded, 1 << 20);
		z.next_in = (Bytef *)text.p;
		z.avail_in = (uInt)text.n;
		z.next_out = (Bytef *)coded.p;
		z.avail_out = 1 << 20;
		ok = ok && deflate(&z, Z_FINISH) == Z_STREAM_END;
		coded.n = z.total_out;
		deflateEnd(&z);
		ok = ok && coded.n < text.n / 100 && (f = filter_of(s, UINT64_MAX, true, SLICE("gzip"), &tally, &share)) != NULL && share == SCRUB_INFLATE;
		buf_clear(&got);
		for (size_t at = 0; ok && !ended && took >= 0; runs++) {
			size_t n = coded.n - at < PEER_PIECE ? coded.n - at : PEER_PIECE;
			struct slice out = {"", 0};

			took = f->class->run(f, (struct slice){coded.p + at, n}, at + n == coded.n, &out);
			at += took > 0 ? (size_t)took : 0;
			most = f->cost > most ? f->cost : most;
			f->cost = 0;
			buf_addv(&got, out);
			ended = f->ended;
			ok = !f->more || !ended;
		}
		counted = share > SCRUB_INFLATE && share <= 256 * 1024;
		test_result(ok && counted && runs >= 3 && most <= FLOW_TURN_MAX + 4 * PEER_PIECE && (hit ? took < 0 && f->fault == &filter_scrub_hit :
		    ended && slice_eq(buf_slice(&got), buf_slice(&coded))), hit ? "and the secret behind it is found" : "a piece that becomes 2 MB takes several turns",
		    "%d %zu runs, %llu at most, %zu counted, %zu of %zu", ok, runs, (unsigned long long)most, share, got.n, coded.n);
		filter_free(f);
		test_result(share == 0, "and what was counted is given back", "%zu", share);
	}
	scrub_free(s);
	buf_free(&text);
	buf_free(&coded);
	buf_free(&got);
}

/* Adds a member of gzip (RFC 1952 2.3), of one stored block, with a file's name unless `name` is empty. */
static void
put_member(struct buf *b, struct slice name, struct slice text)
{
	uint8_t n[5] = {1, (uint8_t)text.n, 0, (uint8_t)~text.n, 0xff}, end[8];
	uint32_t crc = (uint32_t)crc32(0, (const Bytef *)text.p, (uInt)text.n);

	for (unsigned i = 0; i < 4; i++) {
		end[i] = (uint8_t)(crc >> 8 * i);
		end[4 + i] = i == 0 ? (uint8_t)text.n : 0;
	}
	buf_add(b, name.n != 0 ? "\x1f\x8b\x08\x08\0\0\0\0\0\xff" : "\x1f\x8b\x08\0\0\0\0\0\0\xff", 10);
	buf_add(b, name.p, name.n);
	buf_add(b, "", name.n != 0);
	buf_add(b, n, sizeof n);
	buf_addv(b, text);
	buf_add(b, end, sizeof end);
}

/* Members of gzip are one text (RFC 1952 2.2): a secret over the border of two is found wherever it is cut, with an empty member
 * or a file's name between, in one piece or byte by byte, and so is one in a name. What has none goes on. */
static void
test_members(void)
{
	static const char value[] = "members-0123456789-canary", clean[] = "members-0123456789-canarX";
	const size_t len = sizeof value - 1;
	struct scrub *s = scrub_of(value, len, "PLACEHOLDER", "");
	struct buf coded, got;
	unsigned wrong = 0, tried = 0;

	buf_init(&coded, 4096);
	buf_init(&got, 4096);
	for (size_t cut = 1; cut < len; cut++)
		for (unsigned way = 0; way < 24; way++, tried++) {
			const char *text = way / 2 % 3 == 1 ? clean : value;
			bool named = way / 2 % 3 == 2;  /* all of it stands in the second name */
			struct slice name = named ? (struct slice){value, len} : way / 6 % 2 != 0 ? SLICE("a name") : SLICE("");
			struct filter *f = filter_of(s, UINT64_MAX, true, SLICE("gzip"), &tally, NULL);
			size_t step = way % 2 != 0 ? 1 : 4096, at = 0;
			bool ok = f != NULL, hit;

			buf_clear(&coded);
			buf_clear(&got);
			put_member(&coded, SLICE(""), (struct slice){text, cut});
			if (way / 12 != 0)
				put_member(&coded, SLICE(""), SLICE(""));
			put_member(&coded, name, named ? SLICE("x") : (struct slice){text + cut, len - cut});
			for (; ok && at < coded.n; at += step)
				ok = filter_feed(f, (struct slice){coded.p + at, coded.n - at < step ? coded.n - at : step}, false, &got);
			ok = ok && filter_feed(f, SLICE(""), true, &got);
			hit = !ok && f != NULL && f->fault == &filter_scrub_hit && (got.n == 0 || memmem(got.p, got.n, value, 8) == NULL);
			wrong += text == clean ? !ok || !slice_eq(buf_slice(&got), buf_slice(&coded)) : !hit;
			filter_free(f);
		}
	test_result(wrong == 0 && tried == 24 * (len - 1), "a secret over the border of two members of gzip is found, and one in a name", "%u of %u are wrong", wrong, tried);
	scrub_free(s);
	buf_free(&coded);
	buf_free(&got);
}

/* What of a gzip body decodes to nothing: a header, and blocks of ten bits (RFC 1951 3.2.6), come in one piece and are searched
 * once, and what is decoded behind them goes on behind what was before. Byte by byte, each search counts for the turn. */
static void
test_no_text(void)
{
	static const char value[] = "empties-0123456789-canary";
	struct scrub *s = scrub_of(value, sizeof value - 1, "PLACEHOLDER", "");
	struct buf member, coded, got;

	buf_init(&member, 4096);
	buf_init(&coded, 1 << 20);
	buf_init(&got, 1 << 20);
	for (unsigned way = 0; way < 4; way++) {
		bool hit = way % 2 != 0, bytes = way / 2 != 0, ok;
		struct filter *f = filter_of(s, UINT64_MAX, true, SLICE("gzip"), &tally, NULL);
		size_t n = bytes ? 2000 : PEER_PIECE, step = bytes ? 1 : PEER_PIECE, at = 0;
		uint64_t cost = 0;

		buf_clear(&coded);
		buf_clear(&got);
		buf_clear(&member);
		put_member(&coded, SLICE(""), (struct slice){value, 9});
		put_member(&member, SLICE(""), hit ? (struct slice){value + 9, sizeof value - 10} : SLICE("canary"));
		buf_add(&coded, member.p, 10);
		while (coded.n < n)
			buf_add(&coded, "\x02\x08\x20\x80", 5);       /* four blocks */
		buf_add(&coded, member.p + 10, member.n - 10);
		for (ok = f != NULL; ok && at < coded.n; at += step) {
			ok = filter_feed(f, (struct slice){coded.p + at, coded.n - at < step ? coded.n - at : step}, false, &got);
			cost += f->cost;
			f->cost = 0;
		}
		ok = ok && filter_feed(f, SLICE(""), true, &got);
		ok = hit ? !ok && f != NULL && f->fault == &filter_scrub_hit : ok && slice_eq(buf_slice(&got), buf_slice(&coded));
		test_result(ok && (bytes ? cost > n * n / 4 : cost < 8 * PEER_PIECE), "blocks without text before a secret, and what they cost", "%u: %d, %llu, at %zu of %zu",
		    way, ok, (unsigned long long)cost, at, coded.n);
		filter_free(f);
	}
	scrub_free(s);
	buf_free(&member);
	buf_free(&coded);
	buf_free(&got);
}

/* An agent that has no room for what a filter holds: the answer ends. */
static void
test_no_room(void)
{
	static const char value[] = "roomless-0123456789-canary";
	struct scrub *s = scrub_of(value, sizeof value - 1, "PLACEHOLDER", "");
	const struct scrub_table *t;
	size_t share = REQ_BODIES_SHARE - 100;
	struct filter *f = filter_of(s, UINT64_MAX, false, SLICE(""), &tally, &share), *w = NULL;
	struct buf got;
	bool ok = f != NULL && scrub_table(s, true, &t) && (w = filter_scrub_ws_new(s, t, &tally, &share)) != NULL;

	buf_init(&got, 4096);
	ok = ok && !filter_feed(f, SLICE("a text"), false, &got) && f->fault->status == 503 && !filter_feed(w, SLICE("\x81\x06" "a text"), false, &got) &&
	    w->fault->status == 503 && got.n == 0 && filter_of(s, UINT64_MAX, true, SLICE("gzip"), &tally, &share) == NULL;
	filter_free(f);
	filter_free(w);
	test_result(ok && share == REQ_BODIES_SHARE - 100, "an agent without room for it", "%zu", share);
	scrub_free(s);
	buf_free(&got);
}

/* -- the limit */
static void
test_limit(void)
{
	struct scrub a = {.whose = 5}, b = {.whose = 6};
	unsigned let = 0, other = 0, again = 0, free_ones = 0;
	struct scrub_tally t;

	for (unsigned i = 0; i < 15; i++) {
		t = (struct scrub_tally){0};
		let += scrub_note(&a, &t);
		again += scrub_note(&a, &t);    /* of one request the first hit alone counts */
	}
	for (unsigned i = 0; i < 10; i++)
		other += scrub_note(&b, &(struct scrub_tally){0});
	for (unsigned i = 0; i < 50; i++)
		free_ones += scrub_note(&a, &(struct scrub_tally){.free = true});
	test_result(let == 10 && again == 10 && other == 10 && free_ones == 50, "ten requests in a minute may have hits, for each agent and credential",
	    "%u %u %u %u", let, again, other, free_ones);
	for (unsigned i = 0; i < SCRUB_HITS_MAX; i++)
		scrub_slots[5].at[i] -= SCRUB_WINDOW_MS;
	test_result(scrub_note(&a, &(struct scrub_tally){0}), "and more when the minute is over", "no");
}

/* The same value twice, of which the second is known as a machine's: it is one. Where bodies are searched for what heads
 * are, both have one table. */
static void
test_made_later(void)
{
	const struct scrub_table *head, *t;
	struct scrub *s = NULL;
	struct secret *one = secret_copy("made-12bytes", 12);
	bool ok = scrub_add(&s, one, 0, SLICE("x"), SLICE(""), false) && scrub_table(s, true, &t) && t == NULL &&
	    scrub_add(&s, one, 0, SLICE("y"), SLICE(""), true) && s->n == 1 && scrub_table(s, true, &t) && t != NULL &&
	    scrub_table(s, false, &head) && head == t;

	test_result(ok, "a value that was noted first as another's", "no");
	scrub_free(s);
	secret_unref(one);
}

/* A short value is looked for in heads; in bodies if a machine made it. */
static void
test_short(void)
{
	const struct scrub_table *t;
	struct scrub *s = NULL;
	struct secret *one = secret_copy("seven77", 7), *two = secret_copy("twelve-bytes", 12), *made = secret_copy("made-12bytes", 12);
	bool ok = scrub_add(&s, one, 0, SLICE("x"), SLICE(""), true) && s == NULL && scrub_add(&s, two, 0, SLICE("x"), SLICE(""), false) &&
	    scrub_in(s, SLICE("a twelve-bytes b")) && !scrub_in(s, SLICE("a seven77 b")) && scrub_table(s, true, &t) && t == NULL &&
	    scrub_add(&s, made, 0, SLICE("x"), SLICE(""), true) && scrub_table(s, true, &t) && t != NULL;
	struct buf body;

	buf_init(&body, 100);
	buf_adds(&body, "twelve-bytes made-12bytes seven77");
	ok = ok && scrub_body(s, &body, &tally) && slice_eq(buf_slice(&body), SLICE("twelve-bytes x seven77"));
	test_result(ok, "by length", "%.*s", (int)body.n, body.p);
	buf_free(&body);
	scrub_free(s);
	secret_unref(one);
	secret_unref(two);
	secret_unref(made);
}

/* What tables take in the arena is counted as long as they are there: no decision is kept beyond a bound (kept_make). They are
 * made once for the same values, and freed when these are gone. */
static void
test_tables(void)
{
	const struct scrub_table *t, *u;
	struct scrub *s = scrub_of("counted-0123456789", 18, "one", ""), *same;
	struct secret *more = secret_copy("short-01", 8);
	size_t before, one, two;
	bool ok, shared;

	scrub_sweep(true);
	before = scrub_tables;
	ok = scrub_table(s, false, &t) && t != NULL;
	one = scrub_tables - before;
	same = scrub_of("counted-0123456789", 18, "another", "");
	shared = scrub_table(same, true, &u) && u == t && scrub_tables == before + one;
	scrub_free(same);
	same = scrub_of("counted-0123456780", 18, "one", "");
	shared = shared && scrub_table(same, true, &u) && u != t && scrub_tables == before + 2 * one;
	scrub_free(same);
	scrub_sweep(false);             /* for the next request */
	shared = shared && scrub_tables == before + 2 * one;
	scrub_sweep(true);              /* one of them is in use */
	test_result(shared && scrub_tables == before + one, "tables are made once, and go with their values", "%zu", scrub_tables - before);
	ok = ok && scrub_add(&s, more, 0, SLICE("x"), SLICE(""), false) && scrub_table(s, false, &t) && scrub_table(s, true, &t);
	scrub_sweep(true);
	two = scrub_tables - before;
	scrub_free(s);
	scrub_sweep(true);
	test_result(ok && one > 4096 && two > 2 * one && scrub_tables == before, "tables are counted", "%zu, %zu", one, two);
	secret_unref(more);
}

/* The value as that coding writes it; `which`: 0 escapes all characters, 1 every second, 2 the first, 3 the last, 4 some in the middle. */
static void
write_coded(struct buf *b, const char *value, int coding, int which)
{
	size_t n = strlen(value);

	for (size_t i = 0; i < n; i++) {
		unsigned c = (unsigned char)value[i];
		bool escaped = which == 0 || (which == 1 && i % 2 != 0) || (which == 2 && i == 0) || (which == 3 && i == n - 1) ||
		    (which == 4 && i >= 5 && i < 9) || strchr("%&\\\"", value[i]) != NULL;

		if (!escaped || coding == SCRUB_RAW || (c > 127 && coding >= SCRUB_JSON))
			buf_add(b, value + i, 1);
		else
			buf_addf(b, coding == SCRUB_PERCENT ? "%%%02x" : coding == SCRUB_TWICE ? "%%25%02X" : coding == SCRUB_JSON ? "\\u%04X" : "&#%u;", c);
	}
}

/* Texts of nothing but escapes are not read at each of them: nothing that stands between is missed, wherever it begins. */
static void
test_dense(void)
{
	static const char *const fill[] = {"%E4%B8%AD", "%7B%22", "%25E4", "\\u4e2d", "\\\"", "\\\"\\n:", "&lt;", "&quot;x", "&#20013;", "&#x4e2d;", "%", "\\", "&",
	    "%%%E4", "\\\\\\\"", "&&lt;", "%u4e2d", "%2", "]\\\"]", "'&lt;'", "%41%20%6e", "%2541%256e", "\\u0041\\u006e", "&#65;&#110;", "&#x41;",
	    "ab%63de%66", "\\\\u0041", "\\u00\\u0041", "&#&#65;"};
	static const char *const values[] = {"Sk0live9aB7zq3Xw5vU1", "abcdefgh01", "a%b&c\\d\"e/f+g-h_i~", "\xe4\xb8\xad-0123456789abcd"};
	unsigned missed = 0, all = 0;

	for (unsigned v = 0; v < COUNT(values); v++) {
		struct scrub *s = scrub_of(values[v], strlen(values[v]), "placeholder", "");

		for (unsigned k = 0; k < COUNT(fill) * 40 * SCRUB_CODINGS * 5; k++) {
			int which = (int)(k % 5), coding = (int)(k / 5 % SCRUB_CODINGS);
			unsigned pad = k / 5 / SCRUB_CODINGS % 40;
			const char *f = fill[k / 5 / SCRUB_CODINGS / 40];
			struct buf b = {.max = 4096};
			size_t n = strlen(f);

			for (unsigned i = 0; i < pad + 60; i++)
				buf_add(&b, f + i % n, 1);
			/* where it begins within an escape of the fill, that takes its first character */
			if (pad % n != (n - 60 % n) % n)
				buf_adds(&b, " ");
			write_coded(&b, values[v], coding, which);
			for (unsigned i = 0; i < 60 + n; i++)
				buf_add(&b, f + i % n, 1);
			all++;
			if (!scrub_in(s, buf_slice(&b)) && ++missed < 5)
				printf("# missed %s, %d, %d, %u, %s\n", values[v], coding, which, pad, f);
			buf_free(&b);
		}
		scrub_free(s);
	}
	test_result(missed == 0 && all > 10000, "between escapes", "%u of %u missed", missed, all);
}

/* Of a run of escapes, each of which may be a secret's, few are looked at. A secret that stands among them, escaped or not or
 * in part, is found wherever it begins, even with characters that look like the end of an escape before it. */
static void
test_runs(void)
{
	static const char *const cut[SCRUB_CODINGS] = {"", "%4%", "%25%2%4", "\\\\u\\u0\\u00\\u004\\ud83d\\u", "&&#&#6&#x&#x4&#x00&l&amp&DiacriticalG"};
	static const char *const starts[] = {"", "41", "1", "0041", "u0041", "5;", "#65;", "#x41;", "x41;", "00041;", "t;", "rave;", "541", "2541"};
	static const char any[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~+/=:; ";
	unsigned missed = 0, others = 0;

	for (unsigned round = 0; round < 60000; round++) {
		unsigned coding = SCRUB_PERCENT + below(SCRUB_CODINGS - 1), often = below(9), form = below(4) == 0 ? below(SCRUB_FORMS) : SCRUB_PLAIN;
		char value[64], text[4096];
		size_t n = (size_t)snprintf(value, sizeof value, "%s", starts[below(COUNT(starts))]), all = n + 8 + below(14), at, m;
		struct buf b = {.max = sizeof text};
		struct scrub_scan z;
		struct scrub *s;
		const struct scrub_table *t;
		struct scrub_hit hit;
		bool found = false;

		for (; n < all; n++)
			value[n] = any[below(sizeof any - 1)];
		s = scrub_of(value, n, "placeholder", "");
		for (unsigned side = 0; side < 2; side++) {
			/* characters of the secret, so that each escape may be part of it */
			for (unsigned i = 0, many = 30 + below(90), dense = below(3) == 0 ? below(9) : 8; i < many; i++)
				put_char(&b, (unsigned char)value[below((unsigned)n)], coding, dense);
			if (side == 0) {
				if (below(2))
					buf_add(&b, cut[coding], below((unsigned)strlen(cut[coding]) + 1));
				at = b.n;
				put_spelling(&b, (struct slice){value, n}, form, coding, often);
				m = b.n - at;
			}
		}
		if (b.n > sizeof text || !scrub_table(s, false, &t))
			abort();
		scrub_scan_start(&z, s, t, (struct slice){guard_copy(b.p, b.n), b.n}, true);
		while (!found && scrub_next(&z, &hit))
			found = hit.at < at + m && at < hit.at + hit.n;
		if (!found && missed++ < 5)
			printf("# missed %.*s, form %u, in %.*s\n", (int)n, value, form, (int)b.n, b.p);
		others += scrub_dear(s);
		buf_free(&b);
		scrub_free(s);
	}
	test_result(missed == 0 && others == 0, "among escapes that are its own", "%u missed, %u too dear", missed, others);
}

/* -- escapes of the text of which a part is the value's */

/* Is every escape of the text whole, and of what it spells, if `levels` says so? */
static bool
escapes_whole(struct slice in, unsigned coding, unsigned levels)
{
	struct buf out = {.max = in.n + 1};
	bool ok = buf_reserve(&out, in.n + 1);
	size_t n, used;
	char c[4];

	for (size_t i = 0; i < in.n; i += used) {
		used = scrub_unit(in, i, coding, true, c, &n);
		ok = ok && (in.p[i] != scrub_escape[coding] || used > 1);
		buf_add(&out, c, n);
	}
	ok = ok && (levels == 1 || escapes_whole(buf_slice(&out), coding, levels - 1));
	buf_free(&out);
	return ok;
}

static void
test_cut_escapes(void)
{
#define LONG "bcdefghijklmnopqrs"
	static const struct { unsigned coding, levels; const char *before, *value, *behind; const char *spelled; } cases[] = {
	    {SCRUB_JSON, 1, "\\n", "\"b\\" LONG, "\\n", "\\\"b\\\\" LONG}, {SCRUB_JSON, 1, "", "AbC" LONG, "", "\\u0041b\\u0043" LONG},
	    {SCRUB_JSON, 1, "", "\xf0\x9f\x98\x80-" LONG, "", "\\ud83d\\ude00-" LONG}, {SCRUB_JSON, 1, "", "a\\u0041" LONG, "", NULL},
	    {SCRUB_PERCENT, 1, "", "a/b" LONG, "", "%61%2fb" LONG}, {SCRUB_PERCENT, 2, "", "a/b" LONG, "", "%2561%252fb" LONG},
	    {SCRUB_HTML, 1, "", "a/b" LONG, "", "&#97;&#x2f;b" LONG}, {SCRUB_HTML, 1, "", "a&b" LONG, "", "a&amp;b" LONG},
	    {SCRUB_JSON, 1, "x\\u00", "41" LONG, " y\\n", NULL}, {SCRUB_JSON, 1, "\\\"\\", "u0041" LONG, "\\\"", NULL},
	    {SCRUB_JSON, 1, "\\\\\\u004", "1" LONG, "\\t", NULL}, {SCRUB_JSON, 1, "token:\\", "npm_" LONG, "\\n", NULL},
	    {SCRUB_JSON, 1, "\\ud83d\\ude", "00" LONG, "", NULL}, {SCRUB_JSON, 1, "\\u4e", "2d" LONG, "\\u4e2d", NULL},
	    {SCRUB_JSON, 2, "\\\\u00", "41" LONG, "\\\\n", NULL}, {SCRUB_JSON, 2, "C:\\\\", "npm_" LONG, "\\\\\\\"", NULL},
	    {SCRUB_JSON, 2, "\\\\\\\\u", "0041" LONG, "", NULL}, {SCRUB_JSON, 1, "\\", "\\u0041" LONG, "", NULL},
	    {SCRUB_JSON, 1, "a", LONG "\\", "\"z", NULL}, {SCRUB_JSON, 1, "a", LONG "\\u", "0041z", NULL},
	    {SCRUB_JSON, 1, "\\u00", "41" LONG "\\u00", "41z", NULL},
	    {SCRUB_PERCENT, 1, "a=%", "41" LONG, "%2f", NULL}, {SCRUB_PERCENT, 1, "a=%4", "1" LONG, "", NULL},
	    {SCRUB_PERCENT, 1, "a", LONG "%", "41", NULL}, {SCRUB_PERCENT, 1, "a", LONG "%4", "1", NULL},
	    {SCRUB_PERCENT, 2, "a=%2", "541" LONG, "%2541", NULL}, {SCRUB_PERCENT, 2, "%25", "41" LONG, "", NULL},
	    {SCRUB_PERCENT, 2, "%254", "1" LONG, "", NULL}, {SCRUB_PERCENT, 2, "%", "2541" LONG, "", NULL},
	    {SCRUB_PERCENT, 2, "a", LONG "%25", "41", NULL}, {SCRUB_PERCENT, 2, "a", LONG "%2", "541", NULL},
	    {SCRUB_HTML, 1, "&#6", "5;" LONG, "&amp;", NULL}, {SCRUB_HTML, 1, "&", "#x41;" LONG, "", NULL}, {SCRUB_HTML, 1, "&#x", "4e2d;" LONG, "", NULL},
	    {SCRUB_HTML, 1, "&l", "t;" LONG, "&gt;", NULL}, {SCRUB_HTML, 1, "&DiacriticalG", "rave;" LONG, "", NULL},
	    {SCRUB_HTML, 1, "a", LONG "&", "lt;", NULL}, {SCRUB_HTML, 1, "a", LONG "&#x4", "1;", NULL}, {SCRUB_HTML, 1, "&a", "mp;" LONG "&a", "mp;", NULL}};
	unsigned wrong = 0;

	for (unsigned k = 0; k < COUNT(cases); k++) {
		struct scrub *s = scrub_of(cases[k].value, strlen(cases[k].value), "PLACEHOLDER", "");
		char text[128];
		const char *spelled = cases[k].spelled != NULL ? cases[k].spelled : cases[k].value;
		size_t n = (size_t)snprintf(text, sizeof text, "%s%s%s", cases[k].before, spelled, cases[k].behind);

		/* held, and as it flows */
		for (unsigned flows = 0; flows < n + 1; flows++) {
			struct filter *f = filter_of(s, UINT64_MAX, false, SLICE(""), &tally, NULL);
			struct buf out = {.max = 1024};
			bool ok;

			if (flows > 1) {        /* in two pieces, of which the first went on before the other came */
				unsigned cut = flows - 1;

				ok = filter_feed(f, (struct slice){guard_copy(text, cut), cut}, false, &out);
				f->hurry = f->hold_until != 0;
				ok = ok && (!f->hurry || filter_feed(f, SLICE(""), false, &out)) && out.n == cut &&
				    filter_feed(f, (struct slice){guard_copy(text + cut, n - cut), n - cut}, true, &out) && out.n == n;
				/* what came behind is overwritten, but for an escape that had begun */
				ok = ok && (memmem(text + cut, n - cut, "mnopqr", 6) == NULL || memmem(out.p, out.n, "mnopqr", 6) == NULL) &&
				    ((cases[k].levels != 1 && (cases[k].coding != SCRUB_JSON || text[cut - 1] != '\\')) ||
				    escapes_whole(buf_slice(&out), cases[k].coding, cases[k].levels));
				if (!ok && wrong++ < 8)
					printf("# %u, cut at %u: %s became %.*s\n", k, cut, text, (int)out.n, out.p);
				filter_free(f);
				buf_free(&out);
				continue;
			}

			if (flows == 0)
				ok = buf_add(&out, text, n) && scrub_body(s, &out, &tally);
			else
				ok = filter_feed(f, (struct slice){guard_copy(text, n), n}, true, &out) && out.n == n;
			ok = ok && memmem(out.p, out.n, "cdefghijklmn", 12) == NULL && escapes_whole(buf_slice(&out), cases[k].coding, cases[k].levels);
			if (!ok && wrong++ < 8)
				printf("# %u, %u: %s became %.*s\n", k, flows, text, (int)out.n, out.p);
			filter_free(f);
			buf_free(&out);
		}
		scrub_free(s);
	}
	test_result(wrong == 0, "what takes a value's place breaks no escape of which a part is the value's", "%u", wrong);
#undef LONG
}

int
main(void)
{
	if (!secret_init() || !scrub_init())
		return 1;
	test_heads();
	test_dense();
	test_runs();
	test_cut_escapes();
	test_forms();
	test_websocket();
	test_websocket_all();
	test_websocket_unread();
	test_websocket_hurry();
	test_websocket_bytes();
	test_byte_by_byte();
	period("a period of a character, 16 bytes", 16, 1, false, true);
	period("a period of a character, 4 KiB", 4096, 1, false, false);
	period("a period of two, 4 KiB, and escapes", 4096, 2, true, false);
	period("a period of 100, 16 KiB", 16384, 100, false, false);
	test_inflate_turns();
	test_members();
	test_no_text();
	test_no_room();
	test_limit();
	test_made_later();
	test_short();
	test_tables();
	return test_end();
}
