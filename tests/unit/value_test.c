/* The arena, JSON, digests, keys and the Lua modules on them: what a Lua test cannot see, because a
 * secret shows nothing to Lua. Needs openssl in PATH for the private keys. */
#include PROXY_C

static int passed, failed;

static void
value_check(const char *name, bool ok)
{
	printf("%sok %s\n", ok ? "" : "not ", name);
	fflush(stdout);
	*(ok ? &passed : &failed) += 1;
}

static struct slice
text(const char *cstr)
{
	return slice_of(cstr);
}

static bool
all_zero(const void *p, size_t n)
{
	const unsigned char *b = p;

	for (size_t i = 0; i < n; i++)
		if (b[i] != 0)
			return false;
	return true;
}

/* The bytes right before a page that cannot be read: one byte too far and we die. */
static const char *
before_guard(const char *p, size_t n)
{
	static char *page;
	static const size_t room = 256 << 10;

	if (page == NULL) {
		page = mmap(NULL, room + 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		mprotect(page + room, 65536, PROT_NONE);
	}
	if (n > room)
		abort();
	if (n != 0)
		memcpy(page + room - n, p, n);
	return page + room - n;
}

/* -- buffers */

static void
test_buf_sticky(void)
{
	struct buf b;

	buf_init(&b, 16);
	value_check("a buffer takes what fits", buf_adds(&b, "0123456789") && buf_addu(&b, 42) && buf_ok(&b) && b.n == 12);
	value_check("asking for room that is not there is no failure", !buf_room(&b, 5) && buf_ok(&b) && buf_room(&b, 4));
	value_check("what does not fit makes it bad", !buf_adds(&b, "12345") && !buf_ok(&b) && b.n == 12);
	value_check("a bad buffer takes nothing, not even what would fit", !buf_add(&b, "1", 1) && !buf_adds(&b, "") &&
	    !buf_reserve(&b, 1) && !buf_room(&b, 1) && !buf_addf(&b, "%d", 1) && b.n == 12);
	buf_cut(&b, 2);
	value_check("cut shorter it stays bad", !buf_ok(&b) && !buf_add(&b, "1", 1));
	buf_clear(&b);
	value_check("cleared it is good again, and wiped", buf_ok(&b) && all_zero(b.p, 12) && buf_addf(&b, "%d", 1));
	value_check("a format that is too long makes it bad", !buf_addf(&b, "%600d", 1) && !buf_ok(&b));
	buf_recycle(&b, 64);
	value_check("so does using it again", buf_ok(&b) && b.n == 0 && b.cap != 0);
	value_check("a number that does not fit makes it bad", !(buf_adds(&b, "0123456789abcdef"), buf_addu(&b, 1)) && !buf_ok(&b));
	buf_free(&b);
	value_check("freed it is good again", buf_ok(&b) && b.p == NULL && b.max == 16);
}

/* -- arena */

/* Is this flag ("dd", "wf", "lo") set on the mapping that holds p? */
static bool
smaps_flag(const void *p, const char *flag)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	char line[1024], want[8];
	unsigned long a, b;
	bool inside = false, found = false;

	snprintf(want, sizeof want, " %s", flag);
	while (f != NULL && fgets(line, sizeof line, f) != NULL) {
		if (sscanf(line, "%lx-%lx ", &a, &b) == 2)
			inside = (unsigned long)(uintptr_t)p >= a && (unsigned long)(uintptr_t)p < b;
		else if (inside && strncmp(line, "VmFlags:", 8) == 0)
			found = strstr(line, want) != NULL;
	}
	if (f != NULL)
		fclose(f);
	return found;
}

static void
test_arena_wipes(void)
{
	struct secret *s = secret_copy("canary-canary-canary", 20), *t;
	char *at = s->p;

	value_check("a secret keeps its bytes while someone holds it",
	    (secret_unref(secret_ref(s)), memcmp(at, "canary-canary-canary", 20) == 0));
	secret_unref(s);
	value_check("the last release wipes the block, header and all", all_zero(s, 32));
	t = secret_new(20);
	value_check("a block given again reads as zero", t == s && all_zero(t->p, 20));
	secret_unref(t);
	s = secret_new(0);
	value_check("a secret of no bytes is one", s != NULL && s->n == 0);
	secret_unref(s);
	value_check("more than 2 MiB is refused", secret_new(SECRET_MAX + 1) == NULL);
	s = secret_new(SECRET_MAX);
	value_check("2 MiB with the header fit", s != NULL);
	memset(s->p, 0xa5, SECRET_MAX);
	secret_unref(s);
	value_check("a large one is wiped whole", all_zero(s, SECRET_MAX + sizeof *s));
}

static void
test_arena_exhaustion(void)
{
	static struct secret *s[SECRET_ARENA_MAX / 4096 + 1];
	size_t n = 0, again = 0, size = 4096 - sizeof(struct secret);
	bool apart = true;

	while (n < sizeof s / sizeof *s && (s[n] = secret_new(size)) != NULL) {
		memset(s[n]->p, (int)(n & 0xff), size);
		n++;
	}
	value_check("a full arena says so, and not before it is full", n == SECRET_ARENA_MAX / 4096);
	for (size_t i = 0; i < n; i++)
		apart &= s[i]->p[0] == (char)(i & 0xff) && s[i]->p[size - 1] == (char)(i & 0xff);
	value_check("no two blocks share a byte", apart);
	value_check("a full arena has no room for the smallest either", secret_new(0) == NULL);
	for (size_t i = 0; i < n; i += 2)
		secret_unref(s[i]);
	value_check("freed in holes, there is none for a larger block", secret_new(size + 1) == NULL);
	for (size_t i = 1; i < n; i += 2)
		secret_unref(s[i]);
	while (again < 16 && (s[again] = secret_new(SECRET_MAX)) != NULL)
		again++;
	value_check("neighbours merge: the whole arena can be had in the largest blocks", again == 16);
	while (again != 0)
		secret_unref(s[--again]);
	value_check("nothing is left in use", secret_arena.live == 0);
	value_check("the arena is zero from end to end", all_zero(secret_arena.base, SECRET_ARENA_MAX));
}

/* A text of which a secret is made keeps its bytes, and the rest of its block can be had again. */
static void
test_arena_cut(void)
{
	static const size_t sizes[] = {0, 1, 24, 25, 100, 1000, 1016, 1017, 70000, SECRET_MAX};
	struct secret *large[16];
	bool kept = true;
	size_t n = 0;

	for (size_t i = 0; i < COUNT(sizes); i++) {
		for (size_t k = 0; k <= i; k++) {
			struct buf b = {.max = SECRET_MAX, .secret = true};
			struct secret *s, *other;

			buf_reserve(&b, sizes[i]);
			if (sizes[i] != 0)
				memset(b.p, 0xa5, sizes[i]);
			b.n = sizes[k];         /* more was written than counts */
			s = buf_take_secret(&b);
			other = secret_new(sizes[i] / 3);       /* into what was given back */
			memset(other->p, 0x5a, other->n);
			for (size_t at = 0; at < sizes[k]; at++)
				kept &= (unsigned char)s->p[at] == 0xa5;
			kept &= s->n == sizes[k];
			secret_unref(s);
			secret_unref(other);
		}
	}
	value_check("a text of which a secret is made keeps its bytes, without a copy", kept);
	while (n < COUNT(large) && (large[n] = secret_new(SECRET_MAX)) != NULL)
		n++;
	value_check("and its block comes back whole", n == COUNT(large) && all_zero(large[0]->p, SECRET_MAX));
	while (n != 0)
		secret_unref(large[--n]);
	value_check("and zero", all_zero(secret_arena.base, SECRET_ARENA_MAX));
}

/* A text grows, and becomes a secret on its way: nothing of it stays behind. */
static void
test_arena_text(void)
{
	struct buf b;
	struct secret *s = NULL;
	const char *heap;
	char plain[100];
	bool ok = true;

	for (size_t from = 0; from < 3000; from += 1 + from / 3) {
		buf_init(&b, 4000);
		for (size_t i = 0; i < 3000; i++) {
			if (i == from) {
				buf_make_secret(&b);
				buf_make_secret(&b);
			}
			ok &= buf_add(&b, &(char){(char)(i * 7)}, 1);
		}
		ok &= secret_arena.live == 1 && (s = buf_take_secret(&b)) != NULL && b.p == NULL && s->n == 3000;
		for (size_t i = 0; ok && i < 3000; i++)
			ok &= s->p[i] == (char)(i * 7);
		secret_unref(s);
	}
	value_check("a text grows in the arena, from the start or from its middle", ok && secret_arena.live == 0);
	value_check("and leaves nothing there", all_zero(secret_arena.base, SECRET_ARENA_MAX));
	b = (struct buf){.max = 100, .secret = true};
	value_check("an empty text is an empty secret", (s = buf_take_secret(&b)) != NULL && s->n == 0);
	secret_unref(s);
	memset(plain, 'x', sizeof plain);
	value_check("a text that is too long becomes no secret", !buf_add(&b, plain, 101) && buf_take_secret(&b) == NULL && buf_ok(&b));
	value_check("nor one that was so before", (buf_init(&b, 50), buf_add(&b, plain, 51), buf_take_secret(&b)) == NULL);
	b = (struct buf){.max = 4 << 20, .secret = true};
	value_check("one secret has its limit", buf_reserve(&b, SECRET_MAX) && !buf_reserve(&b, SECRET_MAX + 1) && !buf_ok(&b));
	buf_free(&b);
	buf_init(&b, 100);
	buf_add(&b, plain, 50);
	heap = b.p;
	s = buf_take_secret(&b);
	value_check("a text in the heap becomes a secret in the arena", s->n == 50 && memcmp(s->p, plain, 50) == 0 &&
	    s->p != heap && b.p == NULL);
	secret_unref(s);
	value_check("no text is left", secret_arena.live == 0 && all_zero(secret_arena.base, SECRET_ARENA_MAX));
}

/* A million-step walk would be no better than this one: sizes and lifetimes mixed, contents checked. */
static void
test_arena_walk(void)
{
	struct secret *s[64] = {NULL};
	uint32_t seed = 7;
	bool whole = true;

	for (int step = 0; step < 20000; step++) {
		unsigned i = (seed = seed * 1664525 + 1013904223) >> 26;
		size_t n = (seed >> 8 & 0xffff) >> (seed >> 4 & 15);

		if (s[i] != NULL) {
			for (size_t k = 0; k < s[i]->n; k++)
				whole &= s[i]->p[k] == (char)i;
			secret_unref(s[i]);
			s[i] = NULL;
		} else if ((s[i] = secret_new(n)) != NULL) {
			whole &= all_zero(s[i]->p, n);
			memset(s[i]->p, (int)i, n);
		}
	}
	for (int i = 0; i < 64; i++)
		secret_unref(s[i]);
	value_check("blocks of all sizes come and go without touching each other", whole && secret_arena.live == 0);
}

static void
test_arena_system(void)
{
	struct secret *s = secret_copy("canary", 6);
	int status = -1;
	pid_t pid;

	value_check("core dumps leave the arena out", smaps_flag(s, "dd"));
	value_check("a forked child gets it zeroed", smaps_flag(s, "wf"));
#if defined(__SANITIZE_ADDRESS__) || defined(__clang__)  /* there mlock does nothing and says it did */
	(void)secret_locked;
#else
	value_check("it is locked, or secret_locked says that it is not", !secret_locked() || smaps_flag(s, "lo"));
#endif
	if ((pid = fork()) == 0)
		_exit(all_zero(s->p, 6) && secret_init() && secret_copy("x", 1) != NULL ? 0 : 1);
	waitpid(pid, &status, 0);
	value_check("the child reads zeros there, and can have an arena of its own", status == 0);
	value_check("the parent's is as it was", memcmp(s->p, "canary", 6) == 0);
	secret_unref(s);
}

/* -- json */

static bool
json_ok(struct slice in)
{
	struct json_reader r;
	struct json_token t;
	const char *last = in.p;

	json_open(&r, in);
	for (;;)
		switch (json_next(&r, &t)) {
		case JSON_BAD:
			return json_next(&r, &t) == JSON_BAD ? false : (abort(), false);
		case JSON_END:
			return json_next(&r, &t) == JSON_END ? true : (abort(), true);
		default:
			if (t.raw.n == 0 || t.raw.p < last || t.raw.p + t.raw.n > in.p + in.n)
				abort();        /* tokens come in order and lie in the text */
			last = t.raw.p + t.raw.n;
		}
}

static char *
nested(size_t depth, char open, char close)
{
	static char s[256];

	memset(s, open, depth);
	memset(s + depth, close, depth);
	s[2 * depth] = '\0';
	return s;
}

static const char *const json_good[] = {
	"null", " true ", "false", "0", "-0", "1", "-12.5e+10", "1E5", "0.0", "\"\"", "[]", "{}", "[[],{}]", "\t[1,\r\n2]",
	"{\"a\":1,\"b\":[true,null,{\"c\":\"d\"}]}", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\"", "\"\\ud83d\\ude00\"",
	"\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\x7f\"", "\"\\u0000\"", "{\"\":0}", "{\"a\":1,\"a\":2}", "\"\xf4\x8f\xbf\xbf\"",
};

static const char *const json_bad[] = {
	"", " ", "nul", "nulll", "True", "+1", "01", "1.", ".5", "-", "1e", "1e+", "0x10", "NaN", "Infinity", "-Infinity",
	"'a'", "\"a", "\"\t\"", "\"\n\"", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"",
	"\"\\ud800\\ud800\"", "\"\\\"", "[1,]", "[,1]", "[1 2]", "[", "]", "[1}", "{\"a\":1]", "{a:1}", "{\"a\"}", "{\"a\":}",
	"{\"a\" 1}", "{\"a\":1,}", "{,}", "{1:2}", "{\"a\":1 \"b\":2}", "{", "}", "1 2", "[] []", "{}x", "[1]//c", "/*c*/1",
	"\xef\xbb\xbf{}", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf5\x80\x80\x80\"", "\"\xe2\x82\"", "\"\x80\"", "\"\xf0\x80\x80\x80\"",
	"\"\xe0\x80\x80\"", "\"\xc3\"", "\xc2\xa0,1", "[1\v]", "[1\f]", "\"\\", "{\"a\":\"b\\\"}", ",", ":", "\"a\":1",
	"\"\xf4\x90\x80\x80\"", "[\"a\":1]",
};

static void
test_json_reader(void)
{
	bool good = true, bad = true;
	struct json_reader r;
	struct json_token t;

	for (size_t i = 0; i < sizeof json_good / sizeof *json_good; i++)
		if (!json_ok(text(json_good[i]))) {
			printf("# refused: %s\n", json_good[i]);
			good = false;
		}
	for (size_t i = 0; i < sizeof json_bad / sizeof *json_bad; i++)
		if (json_ok(text(json_bad[i]))) {
			printf("# accepted: %s\n", json_bad[i]);
			bad = false;
		}
	value_check("json: what RFC 8259 allows is read", good);
	value_check("json: what it does not allow is refused", bad);
	value_check("json: a NUL is not white space", !json_ok((struct slice){"1\0", 2}) &&
	    !json_ok((struct slice){"\"\0\"", 3}) && !json_ok((struct slice){"\"\\\0\"", 4}));
	value_check("json: an unset slice is no JSON", !json_ok((struct slice){NULL, 0}));
	value_check("json: 64 levels are read", json_ok(text(nested(64, '[', ']'))));
	value_check("json: 65 are not", !json_ok(text(nested(65, '[', ']'))));

	json_open(&r, text("{\"k\":[1]}"));
	value_check("json: a token gives its bytes and its depth",
	    json_next(&r, &t) == JSON_OBJECT && t.depth == 0 &&
	    json_next(&r, &t) == JSON_KEY && t.depth == 1 && slice_eq(t.raw, SLICE("\"k\"")) &&
	    json_next(&r, &t) == JSON_ARRAY && t.depth == 1 &&
	    json_next(&r, &t) == JSON_NUMBER && t.depth == 2 && slice_eq(t.raw, SLICE("1")) &&
	    json_next(&r, &t) == JSON_CLOSE && t.depth == 1 &&
	    json_next(&r, &t) == JSON_CLOSE && t.depth == 0 && json_next(&r, &t) == JSON_END);
}

/* Every prefix of every sample, right before a page that cannot be read. */
static void
test_value_json_prefixes(void)
{
	bool whole_only = true;

	for (size_t i = 0; i < sizeof json_good / sizeof *json_good; i++)
		for (size_t n = 0; n <= strlen(json_good[i]); n++) {
			bool ok = json_ok((struct slice){before_guard(json_good[i], n), n});

			if (ok && n < strlen(json_good[i]) && strchr("{[\"", json_good[i][0]) != NULL)
				whole_only = false;
		}
	for (size_t i = 0; i < sizeof json_bad / sizeof *json_bad; i++)
		for (size_t n = 0; n <= strlen(json_bad[i]); n++)
			json_ok((struct slice){before_guard(json_bad[i], n), n});
	value_check("json: no prefix of an array, object or string is whole", whole_only);
}

static bool
unescapes_to(const char *json, struct slice want)
{
	struct json_reader r;
	struct json_token t;
	char out[64];

	json_open(&r, text(json));
	return json_next(&r, &t) == JSON_STRING && json_unescape(NULL, &t) == want.n &&
	    slice_eq((struct slice){out, json_unescape(out, &t)}, want) && json_spells(&t, want, false) &&
	    !json_spells(&t, SLICE("other"), false) && (want.n == 0 || !json_spells(&t, (struct slice){want.p, want.n - 1}, false));
}

static bool
quotes_as(struct slice in, const char *want)
{
	struct buf b;
	bool same;

	buf_init(&b, 64);
	same = json_put(&b, in, false) && slice_eq(buf_slice(&b), slice_of(want));
	buf_free(&b);
	return same;
}

static bool
number_is(const char *in, enum json_number kind, int64_t integer, double real)
{
	int64_t i = 0;
	double d = 0;
	const char *p = before_guard(in, strlen(in));

	return json_number((struct slice){p, strlen(in)}, &i, &d) == kind && i == integer && !(d < real) && !(d > real);
}

static void
test_json_values(void)
{
	char long_number[JSON_NUMBER_MAX + 2];
	struct buf b;

	memset(long_number, '1', sizeof long_number - 1);
	long_number[sizeof long_number - 1] = '\0';
	value_check("json: escapes come out as UTF-8",
	    unescapes_to("\"a\\u0000b\"", (struct slice){"a\0b", 3}) && unescapes_to("\"\\u00e9\"", SLICE("\xc3\xa9")) &&
	    unescapes_to("\"\\u20AC\"", SLICE("\xe2\x82\xac")) && unescapes_to("\"\\uD83D\\uDE00\"", SLICE("\xf0\x9f\x98\x80")) &&
	    unescapes_to("\"\\/\\b\\f\\n\\r\\t\\\\\\\"\"", SLICE("/\b\f\n\r\t\\\"")) && unescapes_to("\"\"", SLICE("")) &&
	    unescapes_to("\"acc\\u0065ss\"", SLICE("access")));
	value_check("json: quoting escapes what must be, and no more",
	    quotes_as(SLICE("a\"\\/\n\x01\x7f\xc3\xa9"), "\"a\\\"\\\\/\\n\\u0001\\u007f\xc3\xa9\"") &&
	    quotes_as((struct slice){"\0", 1}, "\"\\u0000\"") && quotes_as(SLICE(""), "\"\""));
	buf_init(&b, 16);
	value_check("json: quoting refuses bytes that are not UTF-8, and adds nothing of them",
	    buf_adds(&b, "x") && !json_put(&b, SLICE("a\xff"), false) && buf_ok(&b) && b.n == 1);
	buf_clear(&b);
	value_check("json: for a log, such a byte becomes U+FFFD",
	    json_put(&b, SLICE("a\xff"), true) && slice_eq(buf_slice(&b), SLICE("\"a\xef\xbf\xbd\"")));
	value_check("json: a buffer that is full refuses whole", !json_put(&b, SLICE("0123456789"), true) && b.n == 6);
	buf_free(&b);
	value_check("json: integers stay integers when they fit",
	    number_is("9223372036854775807", JSON_INTEGER, INT64_MAX, 0) && number_is("-9223372036854775808", JSON_INTEGER, INT64_MIN, 0) &&
	    number_is("9223372036854775808", JSON_REAL, 0, 9223372036854775808.0) && number_is("1.0", JSON_REAL, 0, 1) &&
	    number_is("1e2", JSON_REAL, 0, 100) && number_is("0", JSON_INTEGER, 0, 0));
	value_check("json: what is no number, or none we can keep, is none",
	    number_is("1e999", JSON_NOT_A_NUMBER, 0, 0) && number_is("", JSON_NOT_A_NUMBER, 0, 0) &&
	    number_is(" 1", JSON_NOT_A_NUMBER, 0, 0) && number_is("1x", JSON_NOT_A_NUMBER, 0, 0) &&
	    number_is(long_number, JSON_NOT_A_NUMBER, 0, 0));
}

static void
test_json_members(void)
{
	struct json_member m[2] = {{.name = SLICE("a")}, {.name = SLICE("b")}};

	value_check("members: found at the top only, however the name is escaped",
	    json_members(SLICE("{\"x\":{\"a\":1,\"b\":2},\"\\u0061\":[1,{\"b\":3}]}"), m, 2) == JSON_OK &&
	    m[0].value.type == JSON_ARRAY && slice_eq(m[0].value.raw, SLICE("[1,{\"b\":3}]")) && m[1].value.type == JSON_END);
	value_check("members: a wanted name twice is refused, escaped or not",
	    json_members(SLICE("{\"a\":1,\"\\u0061\":2}"), m, 2) == JSON_DUPLICATE &&
	    json_members(SLICE("{\"a\":{},\"a\":null}"), m, 2) == JSON_DUPLICATE);
	value_check("members: another name may come twice", json_members(SLICE("{\"x\":1,\"x\":2,\"b\":0}"), m, 2) == JSON_OK);
	value_check("members: half a text is none", json_members(SLICE("{\"a\":1"), m, 2) == JSON_MALFORMED &&
	    json_members(SLICE("{\"a\":1}}"), m, 2) == JSON_MALFORMED && json_members(SLICE("{\"a\":1,\"a\":2"), m, 2) == JSON_MALFORMED &&
	    json_members(SLICE(""), m, 2) == JSON_MALFORMED);
	value_check("members: what is no object is told apart from what is no JSON",
	    json_members(SLICE("[1]"), m, 2) == JSON_NOT_OBJECT && json_members(SLICE("3"), m, 2) == JSON_NOT_OBJECT);
}

/* -- sign */

static bool
hex_is(const void *p, size_t n, const char *want)
{
	char hex[2 * SIGN_DIGEST_MAX];

	return hex_encode(hex, p, n) == strlen(want) && memcmp(hex, want, strlen(want)) == 0;
}

static const struct sign_hash *
hash_of(const char *name)
{
	size_t i = 0;

	while (strcmp(sign_hashes[i].name, name) != 0)
		i++;
	return &sign_hashes[i];
}

static void
test_digests(void)
{
	static const struct { const char *name, *data, *want; } row[] = {
		{"sha256", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{"sha256", "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{"sha256", "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
		    "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
		{"sha1", "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"},
		{"sha384", "abc", "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
		    "8086072ba1e7cc2358baeca134c825a7"},
		{"sha512", "abc", "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
		    "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"},
	};
	unsigned char out[SIGN_DIGEST_MAX];
	bool ok = true;

	for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
		const struct sign_hash *h = hash_of(row[i].name);

		sign_digest(h, text(row[i].data), out);
		ok &= hex_is(out, h->n, row[i].want);
	}
	value_check("digests: the examples of FIPS 180-4", ok);
}

/* RFC 4231, test cases 1 to 7 (5 is about truncation, which we do not do; its first 16 bytes). */
static void
test_hmac_rfc4231(void)
{
	static const struct { size_t nkey; int key; const char *skey, *data; size_t ndata; int fill; const char *want; } row[] = {
		{20, 0x0b, NULL, "Hi There", 0, 0, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
		{4, 0, "Jefe", "what do ya want for nothing?", 0, 0, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
		{20, 0xaa, NULL, NULL, 50, 0xdd, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
		{25, 1, "", NULL, 50, 0xcd, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
		{20, 0x0c, NULL, "Test With Truncation", 0, 0, "a3b6167473100ee06e0c796c2955552b"},
		{131, 0xaa, NULL, "Test Using Larger Than Block-Size Key - Hash Key First", 0, 0,
		    "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
		{131, 0xaa, NULL, "This is a test using a larger than block-size key and a larger than block-size data. "
		    "The key needs to be hashed before being used by the HMAC algorithm.", 0, 0,
		    "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"},
	};

	for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
		char key[131], data[160], name[64];
		unsigned char out[SIGN_DIGEST_MAX];
		struct slice d = {data, row[i].ndata}, part[2];

		memset(key, row[i].key, sizeof key);
		if (row[i].skey != NULL)
			for (size_t k = 0; k < row[i].nkey; k++)        /* case 4: 01 02 … 19 */
				key[k] = row[i].skey[0] != '\0' ? row[i].skey[k] : (char)(k + 1);
		memset(data, row[i].fill, sizeof data);
		if (row[i].data != NULL)
			d = text(row[i].data);
		part[0] = (struct slice){d.p, d.n / 3};
		part[1] = (struct slice){d.p + d.n / 3, d.n - d.n / 3};
		sign_hmac(SIGN_SHA256, (struct slice){key, row[i].nkey}, part, 2, out);
		snprintf(name, sizeof name, "hmac: RFC 4231 test case %zu", i + 1);
		value_check(name, hex_is(out, strlen(row[i].want) / 2, row[i].want));
	}
}

/* -- private keys, as the openssl command writes them */

static struct slice
made_by(const char *command)
{
	static char out[65536];
	char line[1024];
	FILE *f;
	size_t n;

	snprintf(line, sizeof line, "{ %s; } 2>/dev/null", command);
	f = popen(line, "r");
	n = f == NULL ? 0 : fread(out, 1, sizeof out, f);
	if (f != NULL)
		pclose(f);
	return (struct slice){out, n};
}

static void
test_keys(void)
{
#define EC "openssl ecparam -name prime256v1 -genkey"
	static const struct { const char *name, *make, *type, *format, *curve; unsigned bits; bool encrypted; const char *why; } row[] = {
		{"RSA, PKCS#8", "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048", "rsa", "pkcs8", NULL, 2048, false, NULL},
		{"RSA, PKCS#1", "openssl genrsa -traditional 2048", "rsa", "pkcs1", NULL, 2048, false, NULL},
		{"RSA, PKCS#1, DER", "openssl genrsa -traditional 2048 | openssl rsa -traditional -outform DER", "rsa", "pkcs1", NULL, 2048, false, NULL},
		{"RSA, PKCS#8, DER", "openssl genrsa 2048 | openssl pkcs8 -topk8 -nocrypt -outform DER", "rsa", "pkcs8", NULL, 2048, false, NULL},
		{"P-256, SEC 1, behind its parameters", EC, "ec", "sec1", "P-256", 256, false, NULL},
		{"P-256, SEC 1, DER", EC " -noout | openssl ec -outform DER", "ec", "sec1", "P-256", 256, false, NULL},
		{"P-256, PKCS#8", "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", "ec", "pkcs8", "P-256", 256, false, NULL},
		{"P-384", "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384", "ec", "pkcs8", "P-384", 384, false, NULL},
		{"P-521", "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521", "ec", "pkcs8", "P-521", 521, false, NULL},
		{"Ed25519", "openssl genpkey -algorithm ED25519", "ed25519", "pkcs8", NULL, 256, false, NULL},
		{"Ed448", "openssl genpkey -algorithm ED448", "ed448", "pkcs8", NULL, 456, false, NULL},
		{"without a newline at the end", "printf %s \"$(" EC " -noout)\"", "ec", "sec1", "P-256", 256, false, NULL},
		{"CR LF at line ends", EC " -noout | sed 's/$/\\r/'", "ec", "sec1", "P-256", 256, false, NULL},
		{"text before it", "echo key:; " EC " -noout", "ec", "sec1", "P-256", 256, false, NULL},
		{"encrypted, PKCS#8", EC " -noout | openssl pkcs8 -topk8 -passout pass:x", NULL, "pkcs8", NULL, 0, true, NULL},
		{"encrypted, PKCS#8, DER", EC " -noout | openssl pkcs8 -topk8 -passout pass:x -outform DER", NULL, "pkcs8", NULL, 0, true, NULL},
		{"encrypted in OpenSSL's old way", "openssl genrsa -traditional -aes128 -passout pass:x 2048", NULL, "pkcs1", NULL, 0, true, NULL},
		{"the same, EC", EC " -noout | openssl ec -aes128 -passout pass:x", NULL, "sec1", NULL, 0, true, NULL},
		{"a certificate and its key", EC " -noout >/tmp/value_test.$$; openssl req -x509 -key /tmp/value_test.$$ -subj /CN=x;"
		    " cat /tmp/value_test.$$; rm /tmp/value_test.$$", "ec", "sec1", "P-256", 256, false, NULL},
		{"a certificate alone", EC " -noout >/tmp/value_test.$$; openssl req -x509 -key /tmp/value_test.$$ -subj /CN=x;"
		    " rm /tmp/value_test.$$", NULL, NULL, NULL, 0, false, "no_private_key"},
		{"a certificate alone, DER", EC " -noout >/tmp/value_test.$$; openssl req -x509 -key /tmp/value_test.$$ -subj /CN=x -outform DER;"
		    " rm /tmp/value_test.$$", NULL, NULL, NULL, 0, false, "no_private_key"},
		{"a public key", EC " -noout | openssl ec -pubout", NULL, NULL, NULL, 0, false, "no_private_key"},
		{"brainpool, which nobody signs with", "openssl ecparam -name brainpoolP256r1 -genkey -noout", NULL, NULL, NULL, 0, false, "unsupported"},
		{"half a key", EC " -noout | head -c 150", NULL, NULL, NULL, 0, false, "malformed"},
		{"half a key, DER", EC " -noout | openssl ec -outform DER | head -c 60", NULL, NULL, NULL, 0, false, "malformed"},
		{"newlines spelled out", EC " -noout | awk '{printf \"%s\\\\n\", $0}'", NULL, NULL, NULL, 0, false, "escaped_newlines"},
		{"OpenSSH's own format", "echo '-----BEGIN OPENSSH PRIVATE KEY-----'; echo AAAA; echo '-----END OPENSSH PRIVATE KEY-----'",
		    NULL, NULL, NULL, 0, false, "openssh_format"},
		{"a password", "echo hunter2", NULL, NULL, NULL, 0, false, "not_a_key"},
		{"nothing", "true", NULL, NULL, NULL, 0, false, "not_a_key"},
		{"a zero digit", "printf 0", NULL, NULL, NULL, 0, false, "malformed"},
	};
#undef EC
	struct slice key = SLICE("");
	struct key_info info;
	char name[128];

	for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
		const char *why;

		key = made_by(row[i].make);
		why = key_read(key, NULL, &info);
		snprintf(name, sizeof name, "key: %s", row[i].name);
		value_check(name, (row[i].why == NULL) == (why == NULL) && (why == NULL || strcmp(why, row[i].why) == 0) &&
		    (why != NULL || ((row[i].type == NULL ? info.type == NULL : info.type != NULL && strcmp(info.type, row[i].type) == 0) &&
		    strcmp(info.format, row[i].format) == 0 && info.bits == row[i].bits && info.encrypted == row[i].encrypted &&
		    (row[i].curve == NULL ? info.curve == NULL : info.curve != NULL && strcmp(info.curve, row[i].curve) == 0))));
		if (why != NULL && row[i].why == NULL)
			printf("# %s\n", why);
		for (size_t n = 0; n <= key.n; n += 1 + n / 64)
			key_read((struct slice){before_guard(key.p, n), n}, NULL, &info);
	}
}

/* -- Lua */

static long fail_after = -1;    /* allocations that still succeed; -1: all */

/* Once one has failed, all fail: Lua collects garbage and asks again. */
static void *
failing_alloc(void *ud, void *p, size_t osize, size_t nsize)
{
	(void)ud;
	if (nsize == 0) {
		free(p);
		return NULL;
	}
	if (fail_after >= 0 && (p == NULL || nsize > osize)) {
		if (fail_after == 0)
			return NULL;
		fail_after--;
	}
	return realloc(p, nsize);
}

/* What no module has: the bytes of a secret, to compare them. */
static int
l_reveal(lua_State *L)
{
	bool is_secret = false;
	struct slice s = l_check_value(L, 1, &is_secret);

	luaL_argcheck(L, is_secret, 1, "not a secret");
	lua_pushlstring(L, s.p, s.n);
	return 1;
}

static int
l_expect(lua_State *L)
{
	return l_json_expect(L, l_check_slice(L, 1), 2);
}

/* A handle made in C, as the store does: the reference must not leak where Lua has no memory. */
static int
l_handed_over(lua_State *L)
{
	struct secret *s = secret_copy("canary", 6);

	if (s == NULL)
		return luaL_error(L, "full");
	l_push_secret(L, s);
	return 1;
}

static int
l_open_all(lua_State *L)
{
	luaL_openlibs(L);
	lua_bind(L, "secret.core", l_core_functions);
	l_open_secret_core(L);
	lua_bind(L, "json.core", l_json_functions);
	l_open_json(L);
	lua_bind(L, "sign.core", l_sign_functions);
	lua_register(L, "reveal", l_reveal);
	lua_register(L, "expect", l_expect);
	lua_register(L, "handed_over", l_handed_over);
	if (luaL_dostring(L, "package.path = 'lua/?.lua'  core = require 'secret.core'\n"
	    "package.loaded.unbounded, package.loaded['sandbox.core'] = string, { charge = function() end }\n"
	    "for _, name in ipairs { 'secret', 'json', 'sign', 'form', 'uri' } do _G[name] = require(name) end  split = require('cli.document').split") != LUA_OK)
		return lua_error(L);
	return 0;
}

static lua_State *
new_state(void)
{
	lua_State *L = lua_newstate(failing_alloc, NULL);

	lua_pushcfunction(L, l_open_all);
	if (L == NULL || lua_pcall(L, 0, 0, 0) != LUA_OK)
		abort();
	return L;
}

/* Runs a chunk; the message of what it raised is left in `why`. */
static char why[1024];

static bool
runs(lua_State *L, const char *chunk)
{
	bool ok = luaL_loadbuffer(L, chunk, strlen(chunk), "=case") == LUA_OK && lua_pcall(L, 0, 0, 0) == LUA_OK;

	why[0] = '\0';
	if (!ok && lua_type(L, -1) == LUA_TSTRING)
		snprintf(why, sizeof why, "%s", lua_tostring(L, -1));
	lua_settop(L, 0);
	return ok;
}

static const struct { const char *name, *chunk; } lua_cases[] = {
	{"joins strings, numbers and secrets with ..", "local s = core.of 'c'\n"
	    "assert(reveal('a' .. s) == 'ac' and reveal(s .. 'b') == 'cb' and reveal(s .. s) == 'cc')\n"
	    "assert(reveal(1 .. s .. 2.5) == '1c2.5' and reveal('a' .. 'b' .. s .. '' .. 'd') == 'abcd')\n"
	    "assert(reveal(core.of '' .. '') == '')"},
	{"encodes a secret as it encodes a string", "local raw = 'a b\\0\\255~*/+'\n"
	    "for _, f in ipairs { 'base64', 'base64url', 'hex', 'percent', 'form', 'sha256' } do\n"
	    "  local x = core.of(raw)\n"
	    "  assert(reveal(x[f](x)) == secret[f](raw), f)\n"
	    "  assert(reveal(secret[f](x)) == secret[f](raw), f)\n"
	    "end\n"
	    "assert(reveal(core.of('\"\\n'):json_string()) == '\"\\\\\"\\\\n\"')\n"
	    "assert(reveal(core.of('k'):hmac('sha256', 'd')) == core.hmac('k', 'sha256', 'd'))\n"
	    "assert(reveal(core.hmac('k', 'sha256', core.of 'd')) == core.hmac('k', 'sha256', 'd'))\n"
	    "assert(reveal(sign.digest('sha512', core.of 'd')) == sign.digest('sha512', 'd'))"},
	{"builds forms, queries, JSON and templates with secrets in them", "local s = core.of 'p w&='\n"
	    "assert(reveal(form { { 'a', 'b c' }, { 'pw', s }, { 'no', nil }, { 'n', 5 } }) == 'a=b+c&pw=p+w%26%3D&n=5')\n"
	    "assert(reveal(uri.query { { s, 'x' } }) == 'p%20w%26%3D=x')\n"
	    "assert(reveal(json { b = { s, 1, json.null }, a = 'x' }) == [[{\"a\":\"x\",\"b\":[\"p w&=\",1,null]}]])\n"
	    "assert(reveal(json.build(s)) == '\"p w&=\"' and reveal(core.join { 'me:', s, 7 }) == 'me:p w&=7')\n"
	    "assert(reveal(secret.template('${u}:${p}$$${u}$x$', { u = 'me', p = s })) == 'me:p w&=$me$x$')\n"
	    "assert(secret.template('${a}-${b}', { a = 1, b = 'x' }) == '1-x' and secret.template('', {}) == '')"},
	{"takes a document apart", "local doc = core.of [[{\"type\":\"sa\",\"key\":\"-\\u0041\\n-\",\"n\":{\"x\": 1},\"z\":null}]]\n"
	    "local t = assert(split(doc, { type = {}, key = { secret = true }, n = { nested = true }, z = { optional = true } }))\n"
	    "assert(t.type == 'sa' and reveal(t.key) == '-A\\n-' and t.n == '{\"x\": 1}' and t.z == nil)\n"
	    "t = split(doc, { n = { nested = true, secret = true } }) assert(reveal(t.n) == '{\"x\": 1}')"},
	{"hands over what is expected of an answer, and no more", "local v = assert(expect([[{\"access_token\":\"t\\u0031\",\n"
	    "\"expires_in\":\"3600\",\"error\":\"invalid_grant\",\"scope\":\"a\\u0007\\u0085b\",\"ok\":true,\"other\":\"canary\"}]], { access_token = 'secret',\n"
	    "expires_in = 'number', error = 'code', scope = 'string', ok = 'boolean', absent = 'secret' }))\n"
	    "assert(reveal(v.access_token) == 't1' and v.expires_in == 3600 and math.type(v.expires_in) == 'integer')\n"
	    "assert(v.error == 'invalid_grant' and v.scope == 'ab' and v.ok == true and v.absent == nil and v.other == nil)"},
	{"hands an error code to lua/oauth.lua as text, and what is none as nothing", "for body, want in pairs { ['{\"e\":{}}'] = '', ['{\"e\":\"\"}'] = '',\n"
	    "['{\"e\":7}'] = '', ['{\"e\":\"slow_d\\\\u006fwn\"}'] = 'slow_down' } do\n"
	    "  assert(expect(body, { e = 'code' }).e == want, body) end\n"
	    "assert(expect('{\"e\":\"' .. ('x'):rep(4095) .. '\"}', { e = 'code' }).e == '')\n"
	    "assert(expect('{\"e\":null}', { e = 'code' }).e == nil)"},
	{"reaches a member within objects by a dotted name", "local v = assert(expect('{\"a\":{\"b\":{\"c\":\"x\",\"n\":1.5}},\"e\":[1],\"d.e\":\"y\"}',\n"
	    "  { ['a.b.c'] = 'string', ['a.b.n'] = 'number', ['a.x.c'] = 'string', ['e.f'] = 'string', ['d.e'] = 'string' }))\n"
	    "assert(v['a.b.c'] == 'x' and v['a.b.n'] == 1.5 and v['a.x.c'] == nil and v['e.f'] == nil and v['d.e'] == 'y')\n"
	    "assert(select(2, expect('{\"a\":{\"b\":1,\"b\":2}}', { ['a.b'] = 'number' })) == 'duplicate')"},
	{"treats a member of the wrong kind as absent", "local v = expect('{\"t\":\"\",\"u\":5,\"n\":\"1h\",\"m\":[],\"b\":\"true\",\"s\":1,\"i\":1e999}',\n"
	    "{ t = 'secret', u = 'secret', n = 'number', m = 'number', b = 'boolean', s = 'string', i = 'number' })\n"
	    "assert(next(v) == nil)\n"
	    "assert(expect('{\"s\":\"' .. ('x'):rep(4094) .. '\"}', { s = 'string' }).s == ('x'):rep(4094))\n"
	    "assert(expect('{\"s\":\"' .. ('x'):rep(4095) .. '\"}', { s = 'string' }).s == nil)"},
	{"hands over nothing of what is no object, or has a wanted name twice", "for _, body in ipairs { '', '[]', '{', '{\"a\":1,\"a\":2}', '{\"a\":1} x', 'null', '<html>' } do\n"
	    "  local v, code = expect(body, { a = 'number' }) assert(v == nil and ({ malformed = 1, not_object = 1, duplicate = 1 })[code], body) end\n"
	    "assert(expect('{\"x\":1,\"x\":2}', { a = 'number' }))"},
	{"reads what a C caller handed over", "assert(reveal(handed_over()) == 'canary')"},
};

/* What a policy might try. Each must raise, and say nothing of the bytes. */
static const char *const lua_refused[] = {
	"tostring(S)", "print(S)", "return #S", "return S == T", "return S < T", "return S <= T", "return S < 'x'", "for k in pairs(S) do end",
	"return S.content", "return S[1]", "return S[S]", "S.x = 1", "S[1] = 2", "S()", "return ('%s'):format(S)", "return ('%q'):format(S)",
	"return ('%d'):format(S)", "return table.concat { S }", "return table.concat({ 'a', 'b' }, S)", "return ('x'):rep(S)", "return string.len(S)", "return S:len()",
	"return S:sub(1)", "return string.sub(S, 1)", "return string.byte(S)", "return ('a'):find(S)", "return string.find(S, 'a')", "return string.gsub('a', 'a', S)",
	"return ('a'):gsub('a', { a = S })", "return ('a'):gsub('a', function() return S end)",
	"return S + 1", "return -S", "return S & 1", "return S // 1", "return S % 2", "return S ^ S", "return ~S", "return rawlen(S)", "return rawget(S, 1)",
	"setmetatable(S, {})", "return next(S)", "for _, v in ipairs(S) do end", "return utf8.len(S)", "return math.floor(S)", "table.sort { S, T }",
	"return load(S)", "return string.pack('z', S)", "return string.unpack('z', S)", "io.write(S)", "return math.max(S, T)", "for i = 1, S do end", "return os.getenv(S)",
	"return json.encode { S }", "return json.encode(S)", "return json.decode(S)", "return json { [S] = 1 }", "return uri.decode(S)",
	"return uri.parse_query(S)", "return form.parse(S)", "return secret.template(S, {})", "return core.join(S)", "return core.of(S)", "return S .. nil", "return S .. {}", "return true .. S",
	"return S:nothing()", "return form { { 'a', {} } }", "return form { { 'a', true } }", "return form { 'a' }", "return secret.base64()", "return secret.base64(5)",
	"return secret.hmac(S, 'md5', 'x')", "return secret.template('${x}', {})", "return secret.template('${x', { x = 1 })", "return secret.template('${}', {})",
	"return secret.template('${x}', { x = {} })", "return secret.template('x', S)", "return core.join { S, {} }", "return core.join { S, true }",
	"return S:base64(1).x", "local t <const> = setmetatable({}, { __gc = S })  t = t.x.y", "return secret.json_string(core.of '\\xff')",
	"return expect('{}', { a = 'canary' })", "core.keep('x')",
};

static void
test_lua_cases(void)
{
	for (size_t i = 0; i < sizeof lua_cases / sizeof *lua_cases; i++) {
		lua_State *L = new_state();
		char name[128];
		bool ok = runs(L, lua_cases[i].chunk);

		snprintf(name, sizeof name, "lua: %s", lua_cases[i].name);
		value_check(name, ok);
		if (!ok)
			printf("# %s\n", why);
		lua_close(L);
	}
	buf_free(&lua_text);
	value_check("lua: a closed state holds no secret", secret_arena.live == 0);
}

static void
test_lua_refusals(void)
{
	lua_State *L = new_state();
	bool ok = true;
	char chunk[512];

	for (size_t i = 0; i < sizeof lua_refused / sizeof *lua_refused; i++) {
		snprintf(chunk, sizeof chunk, "local S, T = core.of 'canary7f3a', core.of 'canary7f3b'  %s", lua_refused[i]);
		if (runs(L, chunk) || strstr(why, "7f3") != NULL) {
			printf("# not refused: %s -> %s\n", lua_refused[i], why);
			ok = false;
		}
	}
	value_check("lua: whatever a policy tries, a secret stays one", ok);
	value_check("lua: its metatable is out of reach", runs(L, "assert(getmetatable(core.of 'x') == 'secret')"));
	value_check("lua: two handles on equal bytes differ, as do a secret and its string",
	    runs(L, "local s = core.of 'x' assert(s ~= 'x' and not rawequal(s, core.of 'x') and s == s and tonumber(s) == nil)"));
	value_check("lua: a secret is no key of another's value", runs(L, "local t = { [core.of 'x'] = 1 } assert(t[core.of 'x'] == nil)"));
	lua_close(L);
}

/* As task_recycle does it. */
static void
scope_end(struct secret_scope *scope)
{
	while (scope->first != NULL)
		secret_handle_empty(scope->first);
	buf_free(&lua_text);
}

/* A task's end empties what it made and did not keep. */
static void
test_lua_scope(void)
{
	struct secret_scope scope = {0}, other = {0};
	lua_State *L = new_state();

	secret_scope_now = &scope;
	value_check("scope: a task makes handles", runs(L, "a = core.of 'canary'  b = a .. 'x'  k = core.keep(core.of 'kept')"
	    " for i = 1, 50 do local x = a:hex() end collectgarbage()"));
	secret_scope_now = &other;
	value_check("scope: another task makes its own", runs(L, "o = core.of 'other'"));
	secret_scope_now = NULL;
	value_check("scope: it counts what they hold", scope.bytes == 13 && other.bytes == 5);
	scope_end(&scope);
	value_check("scope: at its end they are empty, and the bytes are gone", scope.first == NULL && scope.bytes == 0 && secret_arena.live == 2);
	value_check("scope: using one of them raises", !runs(L, "return a:base64()") && strstr(why, "secret is closed") != NULL &&
	    !runs(L, "return 'x' .. b") && strstr(why, "secret is closed") != NULL && !runs(L, "return form { { 'a', b } }") &&
	    strstr(why, "secret is closed") != NULL && !runs(L, "return json { b }") && strstr(why, "secret is closed") != NULL);
	value_check("scope: it still is a secret that shows nothing", !runs(L, "return tostring(a)") && runs(L, "assert(secret.is(a))"));
	value_check("scope: what was kept, or is another's, is as it was", runs(L, "assert(reveal(k) == 'kept' and reveal(o) == 'other')"));
	value_check("scope: a handle is not emptied by <close>: it may be others' too",
	    !runs(L, "local x <close> = core.of 'x'") && strstr(why, "non-closable") != NULL);
	scope_end(&other);

	secret_scope_now = &scope;
	value_check("scope: one task has no more than its share of the arena",
	    !runs(L, "local s = core.of(('x'):rep(1 << 20)) T = {} for i = 1, 20 do T[i] = s .. i end") && strstr(why, "no room") != NULL);
	value_check("scope: what is garbage counts no more", runs(L, "T = nil local s = core.of(('x'):rep(1 << 20)) for i = 1, 100 do s:sha256() local x = s .. i end"));
	value_check("scope: one secret has its limit", !runs(L, "local s = core.of 'x' for i = 1, 40 do s = s .. s end"));
	scope_end(&scope);
	secret_scope_now = NULL;
	lua_close(L);
	value_check("scope: a closed state holds no secret", secret_arena.live == 0);
}

static void
test_lua_arena_full(void)
{
	lua_State *L = new_state();
	static struct secret *s[16];
	size_t n = 0;

	while (n < 16 && (s[n] = secret_new(SECRET_MAX)) != NULL)
		n++;
	value_check("full: whatever would make a secret raises", n == 16 && !runs(L, "return core.of 'x'") && strstr(why, "no room") != NULL &&
	    !runs(L, "return expect('{\"t\":\"x\"}', { t = 'secret' })") && strstr(why, "no room") != NULL &&
	    !runs(L, "return core.of ''") && strstr(why, "no room") != NULL);
	while (n != 0)
		secret_unref(s[--n]);
	value_check("full: and works again when there is room", runs(L, "assert(reveal(core.of 'x') == 'x')"));
	lua_close(L);
}

/* Every allocation of every case fails in turn, and all after it; with a task's scope around it. */
static void
test_lua_no_memory(void)
{
	for (size_t i = 0; i < sizeof lua_cases / sizeof *lua_cases; i++) {
		struct secret_scope scope = {0};
		bool done = false, clean = true;
		char name[160];
		long k;

		for (k = 0; !done && k < 5000; k++) {
			lua_State *L = new_state();

			if (luaL_loadstring(L, lua_cases[i].chunk) != LUA_OK)
				abort();
			secret_scope_now = &scope;
			fail_after = k;
			done = lua_pcall(L, 0, 0, 0) == LUA_OK;
			fail_after = -1;
			secret_scope_now = NULL;
			scope_end(&scope);
			clean &= scope.first == NULL && scope.bytes == 0 && secret_arena.live == 0;
			lua_close(L);
		}
		snprintf(name, sizeof name, "memory fails at each of %ld allocations: %s", k, lua_cases[i].name);
		value_check(name, done && clean);
	}
}

/* Opening the modules, too, with each allocation failing. */
static void
test_lua_open_no_memory(void)
{
	bool done = false;

	for (long k = 0; !done && k < 5000; k++) {
		lua_State *L = lua_newstate(failing_alloc, NULL);

		fail_after = k;
		lua_pushcfunction(L, l_open_all);
		done = lua_pcall(L, 0, 0, 0) == LUA_OK;
		fail_after = -1;
		lua_close(L);
	}
	value_check("memory fails while the modules are opened", done);
}

static void
test_json_round_trip(void)
{
	lua_State *L = new_state();
	bool ok = true;
	char chunk[1024];

	for (size_t i = 0; i < sizeof json_good / sizeof *json_good; i++) {
		snprintf(chunk, sizeof chunk, "local v, code = json.decode([==[%s]==]) if code ~= 'duplicate' then "
		    "local t = json.encode(v) assert(json.encode(json.decode(t)) == t) assert(json.build(v) == t) "
		    "assert(json.encode(json.decode(json.encode(v, { indent = 2 }))) == t) end", json_good[i]);
		if (!runs(L, chunk)) {
			printf("# %s: %s\n", json_good[i], why);
			ok = false;
		}
	}
	for (size_t i = 0; i < sizeof json_bad / sizeof *json_bad; i++) {
		lua_getglobal(L, "json");
		lua_getfield(L, -1, "decode");
		lua_pushstring(L, json_bad[i]);
		ok &= lua_pcall(L, 1, 3, 0) == LUA_OK && lua_isnil(L, -3) && lua_isinteger(L, -1);
		lua_settop(L, 0);
	}
	value_check("json: what is decoded is encoded again to the same", ok);
	lua_close(L);
}

int
main(void)
{
	if (!secret_init())
		return 1;
	test_buf_sticky();
	test_arena_wipes();
	test_arena_walk();
	test_arena_exhaustion();
	test_arena_cut();
	test_arena_text();
	test_arena_system();
	test_json_reader();
	test_value_json_prefixes();
	test_json_values();
	test_json_members();
	test_digests();
	test_hmac_rfc4231();
	test_keys();
	test_lua_cases();
	test_lua_refusals();
	test_lua_scope();
	test_lua_arena_full();
	test_json_round_trip();
	test_lua_no_memory();
	test_lua_open_no_memory();
	printf("%d passed, %d failed\n", passed, failed);
	return failed != 0;
}
