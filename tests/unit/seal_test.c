/* Sealed texts (section `seal` of proxy.c): what opens and what does not, which values of an answer are sealed, and
 * what stands in their place. */
#include PROXY_C
#include "guard.h"
#include <sys/ptrace.h>

static struct store_keys *keys;
static struct req req;
static struct conn conn;
static const uint8_t epochs[16] = {0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9};

static void
key(uint8_t first)
{
	secret_drop(&store.keys);
	store.keys = secret_new(sizeof *keys);
	keys = (struct store_keys *)(void *)store.keys->p;
	memset(keys->data, first, sizeof keys->data);
	store_keys_derive(keys);
}

/* A seal for agent "aa…" and credential "cc…", of epochs 7 and 9. Members: "place name [word…]", parted by "|". */
static struct seal *
seal_of(const char *members)
{
	static const struct { const char *name; enum subst_place place; } places[] = {
	    {"json", PLACE_JSON}, {"form", PLACE_FORM}, {"header", PLACE_HEADER}, {"cookie", PLACE_COOKIE}};
	struct seal *s = calloc(1, sizeof *s);
	struct subst *rows = s->rows = calloc(1, sizeof *rows);
	struct slice left = slice_of(members);
	size_t at = 0;

	memset(s->head + 29, 0xaa, STORE_ID);
	memset(s->head + 45, 0xcc, STORE_ID);
	memcpy(s->epochs, epochs, sizeof epochs);
	s->max = 86400;
	s->none = 3600;
	s->no_later = INT64_MAX;
	buf_init(&rows->text, SUBST_TEXT_MAX);
	buf_init(&s->text, SEAL_BODY_MAX);
	while (left.n != 0) {
		struct slice one = slice_cut(&left, '|'), place = slice_cut(&one, ' '), name = slice_cut(&one, ' ');
		struct subst_row *row = &rows->row[rows->n++];

		row->to = rows->n;
		for (size_t i = 0; i < COUNT(places); i++)
			if (slice_eq(place, slice_of(places[i].name)))
				row->place = places[i].place;
		while (one.n != 0) {
			struct slice word = slice_cut(&one, ' ');

			if (slice_eq(word, SLICE("optional")))
				row->to = 0;
			if (slice_eq(word, SLICE("ttl"))) {
				row->to = 0;
				row->locked = true;
			}
			row->jwt |= slice_eq(word, SLICE("jwt"));
			if (word.n > 7 && memcmp(word.p, "prefix=", 7) == 0)
				row->placeholder = (struct slice){word.p + 7, word.n - 7};
			if (word.n > 4 && memcmp(word.p, "row=", 4) == 0)
				row->from = (size_t)atoi(word.p + 4);
			if (word.n > 6 && memcmp(word.p, "group=", 6) == 0)
				row->to = (size_t)atoi(word.p + 6);
		}
		row->name = name;
		buf_addv(&rows->text, row->placeholder);
		for (size_t i = 0; i < name.n; i++)
			buf_add(&rows->text, row->place == PLACE_JSON && name.p[i] == '.' ? "" : &name.p[i], 1);
		if (row->place == PLACE_JSON) {
			buf_add(&rows->text, "", 1);
			row->name.n++;
		}
	}
	for (size_t i = 0; i < rows->n; i++) {
		rows->row[i].placeholder.p = rows->text.p + at;
		rows->row[i].name.p = rows->text.p + at + rows->row[i].placeholder.n;
		at += rows->row[i].placeholder.n + rows->row[i].name.n;
	}
	return s;
}

/* -- the text */

static void
test_text(const char *name, const char *kept, const char *value, size_t n)
{
	struct seal *s = seal_of("");
	struct sealed t, bad;
	struct secret *got;
	struct buf out, cut;
	size_t at = 0, wrong = 0, opened = 0;

	buf_init(&out, 1 << 20);
	buf_init(&cut, 1 << 20);
	seal_put(s, 77, 1234567890, SEAL_OPAQUE, slice_of(kept), (struct slice){value, n});
	buf_adds(&out, "before ");
	buf_addv(&out, buf_slice(&s->text));
	test_result(out.n - 7 <= strlen(kept) + 4 * (n + 96) / 3, name, "%zu characters for %zu bytes", out.n - 7, n);
	buf_adds(&out, " behind");
	test_result(seal_next(buf_slice(&out), &at, &t) && slice_eq(t.kept, slice_of(kept)) && t.text.p == out.p + 7 &&
	    t.text.n == out.n - 14 && load_be32(t.head + 61) == 1234567890 && load_be32(t.head + 65) == 77 &&
	    t.head[29] == 0xaa && t.head[45] == 0xcc && !seal_next(buf_slice(&out), &at, &bad), name, "it is not found");
	got = seal_open(&t, epochs);
	test_result(got != NULL && slice_eq(secret_slice(got), (struct slice){value, n}), name, "it does not open");
	secret_unref(got);
	for (size_t i = 0; i < 16; i++) {
		uint8_t other[16];

		memcpy(other, epochs, sizeof other);
		other[i] ^= 1;
		wrong += seal_open(&t, other) != NULL;
	}
	test_result(wrong == 0, name, "it opens for another epoch");
	/* each bit, and each end */
	for (size_t i = 0; i < t.text.n; i++)
		for (int bit = 0; bit < 8; bit++) {
			buf_clear(&cut);
			buf_addv(&cut, t.text);
			cut.p[i] ^= (char)(1 << bit);
			at = 0;
			got = seal_next(buf_slice(&cut), &at, &bad) && bad.text.n == cut.n ? seal_open(&bad, epochs) : NULL;
			wrong += got != NULL;
			secret_unref(got);
		}
	for (size_t i = 0; i < t.text.n; i++) {
		struct slice in = {guard_copy(t.text.p, i), i};

		at = 0;
		got = seal_next(in, &at, &bad) ? seal_open(&bad, epochs) : NULL;
		opened += got != NULL;
		secret_unref(got);
	}
	buf_clear(&cut);
	buf_addv(&cut, t.text);
	buf_addv(&cut, t.text);
	at = 0;
	got = seal_next(buf_slice(&cut), &at, &bad) ? seal_open(&bad, epochs) : NULL;
	test_result(wrong == 0 && opened == 0 && got == NULL, name, "%zu flipped, %zu cut open, doubled: %d", wrong, opened, got != NULL);
	key(2);
	test_result(seal_open(&t, epochs) == NULL, name, "it opens on another box");
	key(1);
	buf_free(&out);
	buf_free(&cut);
	seal_free(s);
}

/* The instructions that it takes to try to open the text, with the first byte of the data key; -1: they cannot be counted here. */
static long
steps(struct slice in, const uint8_t of[16], uint8_t first)
{
	pid_t child = fork();
	long n = 0;
	int status;

	if (child == 0) {
		struct sealed t;
		size_t at = 0;

		store.keys = NULL;      /* in an arena that no child has */
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0 || !secret_init() || !seal_next(in, &at, &t))
			_exit(9);
		key(first);
		raise(SIGSTOP);
		secret_unref(seal_open(&t, of));
		raise(SIGSTOP);
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
		return -1;
	while (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0 && waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP)
		n++;
	n = WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP ? n : -1;
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	return n;
}

/* To refuse a text takes as long, whatever of it or of this box is another: each is decrypted to its end, and its tag compared whole
 * (ct_eq). A hundredth is what the clock takes, now more and now less, and the letters, which everybody can read. */
static void
test_constant_time(void)
{
	static const uint8_t others[16] = {0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9};
	struct seal *s = seal_of("");
	struct buf raw, text;
	struct slice code;
	long first, key_number, tag, box;

	buf_init(&raw, 4096);
	buf_init(&text, 4096);
	seal_put(s, 77, INT32_MAX, SEAL_OPAQUE, SLICE(""), SLICE("s3cret-value"));
	code = (struct slice){s->text.p + SEAL_MARK.n, s->text.n - SEAL_MARK.n};
	buf_reserve(&raw, code.n);
	raw.n = (size_t)b64_decode(raw.p, raw.cap, code, true);
	buf_addv(&text, SEAL_MARK);
	raw.p[raw.n - 1] ^= 1;
	buf_base64(&text, buf_slice(&raw), true);
	tag = steps(buf_slice(&text), epochs, 1);
	buf_cut(&text, SEAL_MARK.n);
	raw.p[raw.n - 1] ^= 1;
	raw.p[4] ^= 1;
	buf_base64(&text, buf_slice(&raw), true);
	key_number = steps(buf_slice(&text), epochs, 1);
	first = steps(buf_slice(&s->text), others, 1);
	box = steps(buf_slice(&s->text), epochs, 2);
	test_result(first == -1 || (first > 5000 && labs(tag - first) < first / 100 && labs(key_number - first) < first / 100 && labs(box - first) < first / 100),
	    "to refuse a text takes as long, whatever is wrong with it", "instructions: another epoch's %ld, another tag %ld, another key's number %ld, another box's %ld",
	    first, tag, key_number, box);
	seal_free(s);
	buf_free(&raw);
	buf_free(&text);
}

/* -- the answer */

static const char *attached;    /* to the request; NULL: nothing */
static unsigned turns;          /* in which the last body was read, but one */

/* Seals the answer; "<" and ">" around a value in `want` stand for a text that opens to it. want_head NULL: the answer
 * does not go on, and says want_body; or its body has that. */
static void
answer(const char *name, const char *members, const char *head, const char *body, const char *want_head, const char *want_body)
{
	static struct http_head h;
	struct slice want[] = {slice_of(want_head != NULL ? want_head : ""), slice_of(want_body)}, got[2];
	struct buf shown;
	ssize_t n;
	bool ok = true, fine;

	turns = 0;
	memset(&req, 0, sizeof req);
	req.conn = &conn;
	req.head.method = SLICE("POST");
	req.seal = seal_of(members);
	buf_init(&req.answer, SEAL_BODY_MAX);
	buf_init(&req.up_bytes, HTTP_HEAD_MAX);
	buf_init(&shown, HTTP_HEAD_MAX);
	buf_adds(&req.answer, body);
	buf_adds(&req.up_bytes, head);
	n = http_parse_response(req.up_bytes.p, req.up_bytes.n, req.head.method, &h);
	req.status = h.status;
	if (attached != NULL) {
		struct secret *secret = secret_copy(attached, strlen(attached));

		scrub_add(&req.back, secret, 0, SLICE("PLACEHOLDER"), SLICE(""), true);
		secret_unref(secret);
	}
	req.tally.free = true;
	fine = n > 0;
	while (fine && !seal_whole(&req, &h))
		turns++;
	fine = fine && seal_answer(&req, &h, FLOW_DONE);
	if (!fine || want_head == NULL) {
		struct slice said = fine ? buf_slice(&req.answer) : slice_of(seal_fault(&req)->message);

		test_result(n > 0 && want_head == NULL && slice_has(said, slice_of(want_body)), name, "%.*s", (int)said.n, said.p);
		goto out;
	}
	answer_put_fields(&shown, &req, &h);
	got[0] = buf_slice(&shown);
	got[1] = buf_slice(&req.answer);
	for (int i = 0; i < 2; i++) {
		struct slice left = got[i], to = want[i];

		while (ok && to.n != 0) {
			struct slice plain = slice_cut(&to, '<'), value = slice_cut(&to, '>');
			struct secret *secret = NULL;
			struct sealed t;
			size_t at = 0;

			ok = left.n >= plain.n && memcmp(left.p, plain.p, plain.n) == 0;
			if (!ok || value.p == NULL || (value.n == 0 && to.n == 0)) {
				ok = ok && left.n == plain.n;
				break;
			}
			left = (struct slice){left.p + plain.n, left.n - plain.n};
			ok = seal_next(left, &at, &t) && t.text.p == left.p && (secret = seal_open(&t, epochs)) != NULL &&
			    slice_eq(secret_slice(secret), value);
			secret_unref(secret);
			if (ok)
				left = (struct slice){left.p + at, left.n - at};
			if (ok && to.n == 0)
				ok = left.n == 0;
		}
	}
	test_result(ok, name, "%.*s%.*s", (int)got[0].n, got[0].p, (int)got[1].n, got[1].p);
out:
	buf_free(&shown);
	buf_free(&req.answer);
	buf_free(&req.up_bytes);
	scrub_free(req.back);
	seal_free(req.seal);
}

#define JSON_HEAD "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

static void
test_seal_answers(void)
{
	answer("a member of the top object", "json token", JSON_HEAD "\r\n", "{\"a\":1,\"token\":\"s3cret-value\"}",
	    JSON_HEAD, "{\"a\":1,\"token\":\"<s3cret-value>\"}");
	answer("a member within a list", "json items.*.auth.token", JSON_HEAD "\r\n",
	    "{\"items\":[{\"auth\":{\"token\":\"first-one\"}},{\"auth\":{\"token\":\"second-one\"}},{\"auth\":{}}]}",
	    JSON_HEAD, "{\"items\":[{\"auth\":{\"token\":\"<first-one>\"}},{\"auth\":{\"token\":\"<second-one>\"}},{\"auth\":{}}]}");
	answer("a list at the top", "json *", JSON_HEAD "\r\n", "[\"first-one\", \"second-one\"]", JSON_HEAD, "[\"<first-one>\", \"<second-one>\"]");
	answer("doubled and escaped keys", "json token", JSON_HEAD "\r\n",
	    "{\"token\":\"first-one\",\"t\\u006fken\":\"second-one\",\"Token\":\"third-one\"}",
	    JSON_HEAD, "{\"token\":\"<first-one>\",\"t\\u006fken\":\"<second-one>\",\"Token\":\"<third-one>\"}");
	answer("doubled objects on the way", "json a.token", JSON_HEAD "\r\n",
	    "{\"a\":{\"token\":\"first-one\"},\"a\":{\"token\":\"second-one\"}}",
	    JSON_HEAD, "{\"a\":{\"token\":\"<first-one>\"},\"a\":{\"token\":\"<second-one>\"}}");
	answer("an escaped value", "json token", JSON_HEAD "\r\n", "{\"token\":\"a\\\"b\\u0063\\/defgh\"}",
	    JSON_HEAD, "{\"token\":\"<a\"bc/defgh>\"}");
	answer("a short value, at its place alone", "json token", JSON_HEAD "\r\n", "{\"token\":\"to\",\"b\":\"to\"}",
	    JSON_HEAD, "{\"token\":\"<to>\",\"b\":\"to\"}");
	answer("an empty value", "json token", JSON_HEAD "\r\n", "{\"token\":\"\"}", JSON_HEAD, "{\"token\":\"\"}");
	answer("a mark before the text", "json token", JSON_HEAD "\r\n", "\xef\xbb\xbf{\"token\":\"s3cret-value\"}",
	    JSON_HEAD, "\xef\xbb\xbf{\"token\":\"<s3cret-value>\"}");
	answer("elsewhere in body and head", "json token", JSON_HEAD "X-Copy: s3cret-value\r\n\r\n",
	    "{\"token\":\"s3cret-value\",\"url\":\"https://u:s3cret-value@host/%73%33cret-value\"}",
	    JSON_HEAD "X-Copy: <s3cret-value>\r\n", "{\"token\":\"<s3cret-value>\",\"url\":\"https://u:<s3cret-value>@host/<s3cret-value>\"}");
	answer("header and cookie", "header x-token|cookie sid", "HTTP/1.1 200 OK\r\nX-Token: s3cret-value\r\nX-Token: other-value\r\n"
	    "Set-Cookie: sid=cookie-value; Path=/\r\nSet-Cookie: a=b; sid=c\r\n\r\n", "",
	    "HTTP/1.1 200 OK\r\nX-Token: <s3cret-value>\r\nX-Token: <other-value>\r\nSet-Cookie: sid=<cookie-value>; Path=/\r\n"
	    "Set-Cookie: a=b; sid=c\r\n", "");
	answer("a form", "form access_token", "HTTP/1.1 200 OK\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n",
	    "access_token=s3cret%2Dvalue&scope=a%20b&access%5ftoken=abc;defghi",
	    "HTTP/1.1 200 OK\r\nContent-Type: application/x-www-form-urlencoded\r\n",
	    "access_token=<s3cret-value>&scope=a%20b&access%5ftoken=<abc;defghi>");
	answer("a member or a form's", "json access_token optional|form access_token optional", "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n",
	    "access_token=s3cret-value&b=", "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n", "access_token=<s3cret-value>&b=");
	answer("digests and tags of the old text go", "json token", JSON_HEAD "ETag: \"a\"\r\nContent-MD5: x\r\nContent-Digest: y\r\nX-A: b\r\n\r\n",
	    "{\"token\":\"s3cret-value\"}", JSON_HEAD "X-A: b\r\n", "{\"token\":\"<s3cret-value>\"}");
	answer("other answers pass with what is found", "json token|json other", "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n\r\n",
	    "{\"token\":\"s3cret-value\"}", "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n", "{\"token\":\"<s3cret-value>\"}");
	answer("a page of errors", "json token", "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n\r\n", "no",
	    "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n", "no");
	answer("optional and absent", "json token|json more optional", JSON_HEAD "\r\n", "{\"token\":\"s3cret-value\",\"more\":null}",
	    JSON_HEAD, "{\"token\":\"<s3cret-value>\",\"more\":null}");
	answer("one of a group", "json token group=1|json access_token group=1", JSON_HEAD "\r\n", "{\"access_token\":\"s3cret-value\"}",
	    JSON_HEAD, "{\"access_token\":\"<s3cret-value>\"}");
	answer("an empty list", "json items.*.key", JSON_HEAD "\r\n", "{\"items\":[ ]}", JSON_HEAD, "{\"items\":[ ]}");
	answer("an empty list at the top", "json *.key", JSON_HEAD "\r\n", "[]", JSON_HEAD, "[]");
	answer("a list without the member", "json items.*.key", JSON_HEAD "\r\n", "{\"items\":[{}]}", NULL, "has no items/*/key");
	answer("a list instead", "json items.key", JSON_HEAD "\r\n", "{\"items\":[]}", NULL, "has no items/key");
	answer("no such member", "json a.token", JSON_HEAD "\r\n", "{\"tok\":\"s3cret-value\"}", NULL, "thrown away: the answer has no a/token");
	answer("an empty answer", "json token", "HTTP/1.1 204 No Content\r\n\r\n", "", NULL, "has no token");
	answer("a number", "json token", JSON_HEAD "\r\n", "{\"token\":5}", NULL, "no string as token");
	answer("an object", "json token", JSON_HEAD "\r\n", "{\"token\":{\"a\":\"b\"}}", NULL, "no string as token");
	answer("a list", "json token optional", JSON_HEAD "\r\n", "{\"token\":[\"b\"]}", NULL, "no string as token");
	answer("null", "json token", JSON_HEAD "\r\n", "{\"token\":null}", NULL, "no string as token");
	answer("one of two is no string", "json token", JSON_HEAD "\r\n", "{\"token\":\"a\",\"token\":1}", NULL, "no string as token");
	answer("no JSON", "json token", JSON_HEAD "\r\n", "{\"token\":\"s3cret-value\"", NULL, "no JSON");
	answer("no JSON, and no 2xx", "json token", "HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\n\r\n", "{\"token\":\"s3cret-value\"", NULL, "no JSON");
	answer("text behind it", "json token", JSON_HEAD "\r\n", "{\"token\":\"s3cret-value\"}{\"token\":\"s3cret-value\"}", NULL, "no JSON");
	answer("encoded", "json token", JSON_HEAD "Content-Encoding: gzip\r\n\r\n", "\x1f\x8b", NULL, "encoded");
	answer("a part", "json token", "HTTP/1.1 206 Partial\r\nContent-Type: application/json\r\n\r\n", "{\"token\":\"s3cret-value\"}", NULL, "part");
	answer("prefix", "json token prefix=ghs_", JSON_HEAD "\r\n", "{\"token\":\"ghs_s3cret-value\"}", JSON_HEAD, "{\"token\":\"<ghs_s3cret-value>\"}");
}

/* In a record's path: "T" stands for a text. */
static void
hides(const char *in, const char *want)
{
	struct seal *s = seal_of("");
	struct buf path = {.max = 4096}, out = {.max = 4096};
	bool found;

	seal_put(s, 1, 2, SEAL_OPAQUE, SLICE("ghs_"), SLICE("s3cret-value"));
	for (; *in != '\0'; in++)
		buf_addv(&path, *in == 'T' ? buf_slice(&s->text) : (struct slice){in, 1});
	found = seal_hide(buf_slice(&path), &out);
	test_result(found == (want != NULL) && (!found || slice_eq(buf_slice(&out), slice_of(want))), "a path with sealed texts", "%.*s",
	    (int)out.n, out.n != 0 ? out.p : "");
	buf_free(&path);
	buf_free(&out);
	seal_free(s);
}

/* -- what is a JWT, and when a text ends */
#define SIGNATURE "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0-Pw" /* 64 bytes */
#define ES256 "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0." /* {"alg":"ES256"}, {"sub":"a"} */

static void
test_jwt(void)
{
	static const struct { const char *name; bool is; const char *text; } cases[] = {
	    {"ES256", true, ES256 SIGNATURE},
	    {"HS256 of 32 bytes", true, "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhIn0.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
	    {"RS256", true, "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
	    {"a signature of 31 bytes", false, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
	    {"none", false, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0." SIGNATURE},
	    {"no signature", false, ES256},
	    {"an unknown algorithm", false, "eyJhbGciOiJYWDI1NiJ9.eyJzdWIiOiJhIn0." SIGNATURE},
	    {"two algorithms in one name", false, "eyJhbGciOiJIUzI1NlxuXHUwMDIySFMzODQifQ.e30." SIGNATURE},
	    {"algorithm twice", false, "eyJhbGciOiJFUzI1NiIsImFsZyI6Im5vbmUifQ.e30." SIGNATURE},
	    {"an algorithm that is no string", false, "eyJhbGciOjI1Nn0.e30." SIGNATURE},
	    {"half a name", false, "eyJhbGciOiJFUzI1In0.e30." SIGNATURE},
	    {"an encrypted one", false, "eyJhbGciOiJFUzI1NiJ9.eyJhIjoxfQ." SIGNATURE ".a.b"},
	    {"claims that are no object", false, "eyJhbGciOiJFUzI1NiJ9.WzFd." SIGNATURE},
	    {"claims that are no JSON", false, "eyJhbGciOiJFUzI1NiJ9.c2VjcmV0LWJ5dGVz." SIGNATURE},
	    {"padding", false, ES256 SIGNATURE "=="},
	    {"no JWT", false, "opaque-token-of-some-length"},
	    {"dots", false, ".."},
	    {"nothing", false, ""},
	};

	for (size_t i = 0; i < COUNT(cases); i++) {
		struct slice text = {guard_copy(cases[i].text, strlen(cases[i].text)), strlen(cases[i].text)}, kept;
		struct buf sig;

		test_result(seal_jwt(text, &kept, &sig) == cases[i].is, cases[i].name, "%s", cases[i].is ? "is none" : "is one");
		buf_free(&sig);
	}
	answer("a JWT keeps header and claims", "json token jwt", JSON_HEAD "X-Copy: " ES256 SIGNATURE "\r\n\r\n",
	    "{\"token\":\"" ES256 SIGNATURE "\"}", JSON_HEAD "X-Copy: <" ES256 SIGNATURE ">\r\n", "{\"token\":\"<" ES256 SIGNATURE ">\"}");
	answer("as a JWT's", "json token jwt", JSON_HEAD "\r\n", "{\"token\":\"" ES256 SIGNATURE "\"}", NULL, "{\"token\":\"" ES256 "Sp5eaL");
	answer("and its signature stands nowhere else", "json token jwt", JSON_HEAD "\r\n",
	    "{\"token\":\"" ES256 SIGNATURE "\",\"signature\":\"" SIGNATURE "\"}", NULL, "\",\"signature\":\"Sp5eaL");
	answer("what is no JWT is opaque", "json token jwt", JSON_HEAD "\r\n",
	    "{\"token\":\"eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0." SIGNATURE "\"}", NULL, "\"Sp5eaL");
	attached = "attached-canary";
	answer("claims that repeat what was attached are not kept", "json token jwt", JSON_HEAD "\r\n",
	    "{\"token\":\"eyJhbGciOiJFUzI1NiJ9.eyJrZXkiOiJhdHRhY2hlZC1jYW5hcnkifQ." SIGNATURE "\"}", NULL, "\"Sp5eaL");
	answer("what was attached is taken out beside it", "json token", JSON_HEAD "X-Key: attached-canary\r\n\r\n", "{\"token\":\"s3cret-value\",\"b\":\"attached-canary attached-canary\"}",
	    JSON_HEAD "X-Key: PLACEHOLDER\r\n", "{\"token\":\"<s3cret-value>\",\"b\":\"PLACEHOLDER PLACEHOLDER\"}");
	answer("what was attached is sealed where it is handed out", "json token", JSON_HEAD "X-Key: attached-canary\r\n\r\n", "{\"token\":\"attached-canary\"}",
	    JSON_HEAD "X-Key: <attached-canary>\r\n", "{\"token\":\"<attached-canary>\"}");
	attached = NULL;
}

static void
test_seal_ends(void)
{
	static const struct { const char *told; int64_t end; } cases[] = {
	    {"600", 1000600}, {"1", 1000001}, {"0", 1003600}, {"-5", 1003600}, {"", 1003600}, {"soon", 1003600}, {"600.9", 1000600},
	    {"1e3", 1001000}, {"1e999", 1003600}, {"100000", 1086400}, {"99999999999999999999", 1003600}, {"315359999", 1086400},
	    {"1700000000", 1086400}, {"315360000", 1086400}, {"1700000000000", 1086400}, {"1970-01-12T13:56:40Z", 1000600},
	    {"1970-01-12T13:56:40.123456789Z", 1000600}, {"1970-01-12T15:56:40+02:00", 1000600}, {"1970-01-12T11:26:40-02:30", 1000600},
	    {"1970-01-12T13:56:40", 1003600}, {"1970-01-12", 1003600}, {"2100-01-01T00:00:00Z", 1086400}, {"1969-01-01T00:00:00Z", 0}};
	struct seal *s = seal_of("");

	for (size_t i = 0; i < COUNT(cases); i++) {
		struct slice told = {guard_copy(cases[i].told, strlen(cases[i].told)), strlen(cases[i].told)};
		int64_t end = seal_end(s, 1000000, told);

		test_result(end == cases[i].end, "it ends as told", "%s: %lld", cases[i].told, (long long)end);
	}
	s->no_later = 1000100;
	test_result(seal_end(s, 1000000, SLICE("600")) == 1000100, "no later than the text that was opened", " ");
	s->no_later = 999;
	test_result(seal_end(s, 1000000, SLICE("600")) == 999, "which may have ended", " ");
	s->no_later = INT64_MAX;
	s->max = INT64_MAX / 2;
	test_result(seal_end(s, 1000000, SLICE("99999999999")) == UINT32_MAX, "no time is beyond what a text can say", " ");
	seal_free(s);
}

/* A body of many tokens is read in turns, each of which is short; what is found and what is refused are as in one. */
static void
test_seal_turns(void)
{
	static const struct { const char *type, *begin, *many, *end; unsigned values; bool well; } cases[] = {
	    {"application/json", "{\"token\":\"first\",\"list\":[", "1,", "1],\"token\":\"s3cret-value\"}", 2, true},
	    {"application/json", "{\"list\":[", "1,", "1],\"token\":\"s3cret-value\"", 0, false},
	    {"application/x-ndjson", "{\"token\":\"first\"}\n", "{}\n1\n", "{\"token\":\"s3cret-value\"}\n", 2, true},
	    {"application/x-ndjson", "{\"token\":\"first\"}\n", "[1]\n", "{\"token\":\"s3cret-value\"\n", 0, false},
	    {"application/x-www-form-urlencoded", "token=first", "&a=1", "&token=s3cret-value&", 2, true},
	    {"application/x-www-form-urlencoded", "&token=first", "&", "&token=s3cret-value", 2, true},
	    {"text/plain", "[token=first", "&a", "&token=s3cret-value&", 1, true}};
	static struct http_head h;

	for (unsigned k = 0; k < COUNT(cases); k++) {
		static struct req r;
		struct subst_spots *c;
		char head[128];
		ssize_t n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\n\r\n", cases[k].type);

		n = http_parse_response(head, (size_t)n, SLICE("POST"), &h);
		memset(&r, 0, sizeof r);
		r.conn = &conn;
		r.seal = seal_of("json token|form token");
		buf_init(&r.answer, SEAL_BODY_MAX);
		buf_adds(&r.answer, cases[k].begin);
		while (r.answer.n < SEAL_BODY_MAX - 100)
			buf_adds(&r.answer, cases[k].many);
		buf_adds(&r.answer, cases[k].end);
		for (turns = 0; n > 0 && !seal_whole(&r, &h); turns++)
			;
		c = &r.seal->spots;
		test_result(turns >= 10 && r.seal->well == cases[k].well && c->n == cases[k].values &&
		    (c->n == 0 || slice_eq(seal_inside(&c->spot[c->n - 1]), SLICE("s3cret-value"))),
		    "a large body is read in turns", "%u: %u turns, %zu values, %d", k, turns, c->n, r.seal->well);
		seal_free(r.seal);
		buf_free(&r.answer);
	}
}

int
main(void)
{
	static char long_value[3000];

	if (!secret_init() || !scrub_init())
		return 1;
	key(1);
	memset(long_value, 'x', sizeof long_value);
	test_text("a text", "", "s3cret-value", 12);
	test_text("with a prefix", "ghs_", "s3cret-value", 12);
	test_text("an empty one", "", "", 0);
	test_text("a byte", "x", "y", 1);
	test_text("any bytes", "", "\0\n\"\xff", 4);
	test_text("a long one", "abc", long_value, 300);
	test_constant_time();
	test_seal_answers();
	test_seal_turns();
	hides("/a/T/b", "/a/sealed/b");
	hides("T", "sealed");
	hides("/T/T/", "/sealed/sealed/");
	hides("/a/b", NULL);
	hides("/a/Sp5eaL/b", NULL);
	test_jwt();
	test_seal_ends();
	return test_end();
}
