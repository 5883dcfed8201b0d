/* Signature Version 4: AWS's own 38 cases, header and query form, where the folder with them is (SIGV4_VECTORS, or
 * ../shared/vectors/aws-sigv4); S3's documented example; the ways of paths and queries; SigV4a's key and signature. */
#include PROXY_C
#include "guard.h"

#define FILE_MAX (64 * 1024)

static char *
read_all(const char *dir, const char *name, const char *file)
{
	char path[4096];
	char *p = calloc(1, FILE_MAX + 1);
	FILE *f;

	snprintf(path, sizeof path, "%s/%s/%s", dir, name, file);
	if ((f = fopen(path, "r")) == NULL) {
		free(p);
		return NULL;
	}
	if (fread(p, 1, FILE_MAX, f) == 0)
		p[0] = '\0';
	fclose(f);
	return p;
}

/* The value of a member of context.json, which is flat but for `credentials`; "" where there is none. */
static struct slice
member(const char *json, const char *name)
{
	char key[64];
	const char *p;
	size_t n;

	snprintf(key, sizeof key, "\"%s\": ", name);
	if ((p = strstr(json, key)) == NULL)
		return SLICE("");
	p += strlen(key);
	n = strcspn(p + (*p == '"'), "\",\n");
	return (struct slice){p + (*p == '"'), n};
}

struct wanted {
	struct sigv4_request r;
	struct sigv4_field field[32];
	struct slice body;
	char memory[FILE_MAX];
};

/* A request of the suite: raw bytes in its path, folded fields (a line break there is white space). */
static void
parse_request(char *text, struct wanted *w)
{
	char *line = strchr(text, '\n'), *path = strchr(text, ' ') + 1, *end, *query;

	*line++ = '\0';
	end = strrchr(path, ' ');
	w->r.method = (struct slice){text, (size_t)(path - 1 - text)};
	*end = '\0';
	query = strchr(path, '?');
	w->r.path = query != NULL ? (struct slice){path, (size_t)(query - path)} : slice_of(path);
	w->r.query = query != NULL ? slice_of(query + 1) : SLICE("");
	while (*line != '\0' && *line != '\n') {
		char *eol = strchr(line, '\n'), *colon;

		while (eol != NULL && (eol[1] == ' ' || eol[1] == '\t')) {
			*eol = ' ';
			eol = strchr(eol, '\n');
		}
		if (eol == NULL)
			eol = line + strlen(line);
		colon = memchr(line, ':', (size_t)(eol - line));
		w->field[w->r.nfields++] = (struct sigv4_field){
			{line, (size_t)(colon - line)}, {colon + 1, (size_t)(eol - colon - 1)}};
		line = *eol == '\0' ? eol : eol + 1;
	}
	w->body = *line == '\n' ? slice_of(line + 1) : SLICE("");
}

static bool
same_text(const char *want, struct slice got)
{
	size_t n = strlen(want);

	while (n != 0 && want[n - 1] == '\n')
		n--;
	return got.n == n && memcmp(want, got.p, n) == 0;
}

/* Signs w->r and holds all three stages against the files that begin with `form`. */
static void
check_stages(const char *dir, const char *name, const char *form, struct wanted *w, const char *context)
{
	static const char *const stage[] = {"canonical-request", "string-to-sign", "signature"};
	char file[64], title[128], string[SIGV4_STRING_MAX], signature[SIGV4_SIGNATURE_MAX + 1];
	unsigned char key[SIGV4_KEY];
	struct sigv4_scope scope;
	struct buf canonical, names;
	struct slice got[3];

	buf_init(&canonical, SIGV4_CANONICAL_MAX);
	buf_init(&names, HTTP_HEAD_MAX);
	w->r.field = w->field;
	assert(sigv4_scope_init(&scope, 1440938160, member(context, "region"), member(context, "service"), false));
	sigv4_names(&w->r, &names);
	sigv4_canonical(&w->r, &canonical);
	assert(buf_ok(&canonical));
	got[0] = buf_slice(&canonical);
	got[1] = (struct slice){string, sigv4_string(string, &scope, got[0])};
	assert(sigv4_key(member(context, "secret_access_key"), member(context, "access_key_id"), &scope, key));
	assert(sigv4_sign(&scope, key, got[1], signature));
	got[2] = slice_of(signature);
	for (int i = 0; i < 3; i++) {
		char *want;

		snprintf(file, sizeof file, "%s-%s.txt", form, stage[i]);
		want = read_all(dir, name, file);
		snprintf(title, sizeof title, "%s, %s", name, file);
		test_result(want != NULL && same_text(want, got[i]), title, "got\n%.*s", (int)got[i].n, got[i].p);
		free(want);
	}
	buf_free(&canonical);
	buf_free(&names);
}

static void
case_init(struct wanted *w, const char *context, char *digest)
{
	unsigned char hash[32];
	bool hashed = slice_eq(member(context, "sign_body"), SLICE("true"));

	w->r.twice = true;
	w->r.normalize = slice_eq(member(context, "normalize"), SLICE("true"));
	sign_digest(SIGN_SHA256, w->body, hash);
	hex_encode(digest, hash, 32);
	w->r.payload = (struct slice){digest, 64};
	if (!hashed) {
		sign_digest(SIGN_SHA256, SLICE(""), hash);
		hex_encode(digest, hash, 32);
	}
}

static void
test_header_form(const char *dir, const char *name, const char *context)
{
	char *text = read_all(dir, name, "request.txt"), digest[64];
	struct wanted w = {0};
	struct slice token = member(context, "token");

	parse_request(text, &w);
	case_init(&w, context, digest);
	w.field[w.r.nfields++] = (struct sigv4_field){SLICE("X-Amz-Date"), SLICE("20150830T123600Z")};
	if (slice_eq(member(context, "sign_body"), SLICE("true")))
		w.field[w.r.nfields++] = (struct sigv4_field){SLICE("x-amz-content-sha256"), w.r.payload};
	if (token.n != 0 && !slice_eq(member(context, "omit_session_token"), SLICE("true")))
		w.field[w.r.nfields++] = (struct sigv4_field){SLICE("X-Amz-Security-Token"), token};
	check_stages(dir, name, "header", &w, context);
	free(text);
}

/* X-Amz-SignedHeaders is part of what is signed, so the names come first. */
static void
test_query_form(const char *dir, const char *name, const char *context)
{
	char *text = read_all(dir, name, "request.txt"), digest[64];
	struct buf canonical, names, query;
	struct wanted w = {0};
	struct slice t = member(context, "token");

	parse_request(text, &w);
	case_init(&w, context, digest);
	w.r.field = w.field;
	buf_init(&canonical, SIGV4_CANONICAL_MAX);
	buf_init(&names, HTTP_HEAD_MAX);
	buf_init(&query, HTTP_HEAD_MAX);
	sigv4_names(&w.r, &names);
	buf_addf(&query, "%.*s%sX-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=%.*s%%2F20150830%%2F%.*s%%2F%.*s%%2Faws4_request"
	    "&X-Amz-Date=20150830T123600Z&X-Amz-SignedHeaders=", (int)w.r.query.n, w.r.query.p, w.r.query.n != 0 ? "&" : "",
	    (int)member(context, "access_key_id").n, member(context, "access_key_id").p,
	    (int)member(context, "region").n, member(context, "region").p, (int)member(context, "service").n,
	    member(context, "service").p);
	pct_put(&query, buf_slice(&names), PCT_URI);
	buf_addf(&query, "&X-Amz-Expires=3600");
	if (t.n != 0 && !slice_eq(member(context, "omit_session_token"), SLICE("true"))) {
		buf_adds(&query, "&X-Amz-Security-Token=");
		pct_put(&query, t, PCT_QUERY);
	}
	w.r.query = buf_slice(&query);
	check_stages(dir, name, "query", &w, context);
	buf_free(&canonical);
	buf_free(&names);
	buf_free(&query);
	free(text);
}

static void
test_vectors(void)
{
	const char *dir = getenv("SIGV4_VECTORS");
	struct dirent *e;
	int n = 0;
	DIR *d;

	if (dir == NULL)
		dir = access("../shared/vectors/aws-sigv4", R_OK) == 0 ? "../shared/vectors/aws-sigv4" :
		    "../../shared/vectors/aws-sigv4";
	if ((d = opendir(dir)) == NULL) {
		printf("skip AWS's test suite - %s is not there\n", dir);
		return;
	}
	while ((e = readdir(d)) != NULL) {
		char *context = e->d_name[0] == '.' ? NULL : read_all(dir, e->d_name, "context.json");

		if (context == NULL)
			continue;
		n++;
		test_header_form(dir, e->d_name, context);
		test_query_form(dir, e->d_name, context);
		free(context);
	}
	closedir(d);
	test_result(n == 38, "AWS's test suite has 38 cases", "%d", n);
}

/* -- cases of our own, so that something holds where the suite is absent */
static const struct { const char *path, *once, *twice, *normalized; } path_cases[] = {
	{"/", "/", "/", "/"},
	{"", "/", "/", "/"},
	{"/a/b", "/a/b", "/a/b", "/a/b"},
	{"/a//b/../c/", "/a//b/../c/", "/a//b/../c/", "/a/c/"},
	{"/..", "/..", "/..", "/"},
	{"/a/..", "/a/..", "/a/..", "/"},
	{"/a/./b/.", "/a/./b/.", "/a/./b/.", "/a/b"},
	{"/a%20b", "/a%20b", "/a%2520b", "/a%2520b"},
	{"/a+b:c@d", "/a%2Bb%3Ac%40d", "/a%2Bb%3Ac%40d", "/a%2Bb%3Ac%40d"},
	{"/%7euser%2Fx", "/~user%2Fx", "/%257euser%252Fx", "/%257euser%252Fx"},
	{"/\xc3\xa4", "/%C3%A4", "/%C3%A4", "/%C3%A4"},
	{"/100%", "/100%25", "/100%25", "/100%25"},
	{"/100%4", "/100%254", "/100%254", "/100%254"},
};

static void
test_paths(void)
{
	for (size_t i = 0; i < sizeof path_cases / sizeof *path_cases; i++) {
		const char *want[] = {path_cases[i].once, path_cases[i].twice, path_cases[i].normalized};
		size_t n = strlen(path_cases[i].path);

		for (int k = 0; k < 3; k++) {
			struct sigv4_request r = {.path = {guard_copy(path_cases[i].path, n), n}, .twice = k != 0, .normalize = k == 2};
			static const char *const how[] = {"once", "twice", "normalised"};
			char name[200];
			struct buf b;

			buf_init(&b, 4096);
			snprintf(name, sizeof name, "path %s, %s", path_cases[i].path, how[k]);
			sigv4_put_path(&b, &r);
			test_result(buf_ok(&b) && slice_eq(buf_slice(&b), slice_of(want[k])), name, "%.*s", (int)b.n, b.p);
			buf_free(&b);
		}
	}
}

static const struct { const char *query, *want; } query_cases[] = {
	{"", ""},
	{"a", "a="},
	{"b=2&a=1", "a=1&b=2"},
	{"a=2&a=1&A=3", "A=3&a=1&a=2"},
	{"a=b=c", "a=b%3Dc"},
	{"a=%2f%7E+x", "a=%2F~%20x"},
	{"&&a=1&", "a=1"},
	{"=x&a", "=x&a="},
	{"a-b=1&a=1", "a=1&a-b=1"},
	{"list-type=2&prefix=a/b", "list-type=2&prefix=a%2Fb"},
};

static void
test_queries(void)
{
	struct buf b, many;

	buf_init(&b, SIGV4_CANONICAL_MAX);
	for (size_t i = 0; i < sizeof query_cases / sizeof *query_cases; i++) {
		size_t n = strlen(query_cases[i].query);

		buf_clear(&b);
		sigv4_put_query(&b, (struct slice){guard_copy(query_cases[i].query, n), n});
		test_result(buf_ok(&b) && slice_eq(buf_slice(&b), slice_of(query_cases[i].want)), query_cases[i].query, "%.*s", (int)b.n, b.p);
	}
	buf_init(&many, HTTP_HEAD_MAX);
	for (int i = 0; i < SIGV4_PAIRS_MAX + 1; i++)
		buf_addf(&many, "a&");
	buf_clear(&b);
	sigv4_put_query(&b, buf_slice(&many));
	test_result(!buf_ok(&b), "more pairs than any server takes", "taken");
	buf_free(&b);
	buf_free(&many);
}

/* Amazon S3 API Reference, "Examples: Signature Calculations", GET Object. */
static void
test_s3_example(void)
{
	struct sigv4_field field[] = {
		{{"Host", 4}, {"examplebucket.s3.amazonaws.com", 30}}, {{"Range", 5}, {"bytes=0-9", 9}},
		{{"x-amz-content-sha256", 20}, {"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 64}},
		{{"x-amz-date", 10}, {"20130524T000000Z", 16}},
	};
	struct sigv4_request r = {.method = SLICE("GET"), .path = SLICE("/test.txt"), .query = SLICE(""),
	    .payload = field[2].value, .field = field, .nfields = 4};
	char string[SIGV4_STRING_MAX], signature[SIGV4_SIGNATURE_MAX + 1];
	unsigned char key[SIGV4_KEY], again[SIGV4_KEY];
	struct sigv4_scope scope;
	struct buf canonical, names;
	size_t n;

	buf_init(&canonical, SIGV4_CANONICAL_MAX);
	buf_init(&names, HTTP_HEAD_MAX);
	assert(sigv4_scope_init(&scope, 1369353600, SLICE("us-east-1"), SLICE("s3"), false));
	sigv4_names(&r, &names);
	sigv4_canonical(&r, &canonical);
	assert(buf_ok(&canonical));
	n = sigv4_string(string, &scope, buf_slice(&canonical));
	assert(sigv4_key(SLICE("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), SLICE("AKIAIOSFODNN7EXAMPLE"), &scope, key));
	assert(sigv4_key(SLICE("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), SLICE("AKIAIOSFODNN7EXAMPLE"), &scope, again));
	assert(sigv4_sign(&scope, key, (struct slice){string, n}, signature));
	test_result(strcmp(signature, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41") == 0,
	    "S3's documented GET Object", "%s", signature);
	test_result(memcmp(key, again, sizeof key) == 0, "a key that was kept is the key", " ");
	buf_free(&canonical);
	buf_free(&names);
}

static void
test_kept(void)
{
	unsigned char key[SIGV4_KEY], fresh[SIGV4_KEY];
	struct sigv4_scope scope;
	bool ok = true;
	size_t live = secret_arena.live;

	for (int i = 0; i < 3 * SIGV4_KEYS; i++) {
		char secret[32];

		snprintf(secret, sizeof secret, "secret-%d", i % (SIGV4_KEYS + 7));
		assert(sigv4_scope_init(&scope, 1369353600 + i, SLICE("us-east-1"), SLICE("s3"), i % 2));
		ok = sigv4_key(slice_of(secret), SLICE("AKID"), &scope, key) &&
		    sigv4_derive(slice_of(secret), SLICE("AKID"), &scope, fresh) && ok && memcmp(key, fresh, sizeof key) == 0;
	}
	test_result(ok, "kept keys never stand for one another", " ");
	test_result(secret_arena.live <= live + 1, "and fill one block", "%zu", secret_arena.live);
	test_result(!sigv4_key(SLICE(""), SLICE("AKID"), &scope, key), "no secret, no key", " ");
	test_result(!sigv4_scope_init(&scope, 0, SLICE("us/east"), SLICE("s3"), false), "a region with a slash is none", " ");
	test_result(!sigv4_scope_init(&scope, 0, SLICE("us"), SLICE(""), false), "a service has a name", " ");
	test_result(!sigv4_scope_init(&scope, INT64_C(999999999999999), SLICE("us"), SLICE("s"), false),
	    "a year has four digits", " ");
}

/* awslabs/aws-c-auth, tests/key_derivation_tests.c: the public key that this pair leads to. */
static void
test_sigv4a(void)
{
	static const char want[] = "0415d242ceebf8d8169fd6a8b5a746c41140414c3b07579038da06af89190fffcb"
	    "0515242cedd82e94799482e4c0514b505afccf2c0c98d6a553bf539f424c5ec0";
	unsigned char key[SIGV4_KEY], public[BR_EC_KBUF_PUB_MAX_SIZE], der[128], digest[32];
	char hex[2 * sizeof public + 1], signature[SIGV4_SIGNATURE_MAX + 1];
	br_ec_private_key ec = {BR_EC_secp256r1, key, sizeof key};
	struct sigv4_scope scope;
	br_ec_public_key pub;
	size_t n;

	assert(sigv4_scope_init(&scope, 1440938160, SLICE(""), SLICE("service"), true));
	assert(sigv4_derive(SLICE("q+jcrXGc+0zWN6uzclKVhvMmUsIfRPa4rlRandom"), SLICE("AKISORANDOMAASORANDOM"), &scope, key));
	n = br_ec_compute_pub(br_ec_get_default(), &pub, public, &ec);
	hex[hex_encode(hex, public, n)] = '\0';
	test_result(strcmp(hex, want) == 0, "SigV4a's documented key pair", "%s", hex);
	test_result(strcmp(scope.text, "20150830/service/aws4_request") == 0, "SigV4a's scope has no region", "%s", scope.text);
	for (int i = 0; i < 50; i++) {
		char string[32];

		snprintf(string, sizeof string, "string to sign %d", i);
		assert(sigv4_sign(&scope, key, slice_of(string), signature));
		assert(strlen(signature) <= SIGV4_SIGNATURE_MAX && hex_decode(der, slice_of(signature)));
		sign_digest(SIGN_SHA256, slice_of(string), digest);
		if (br_ecdsa_i31_vrfy_asn1(br_ec_get_default(), digest, 32, &pub, der, strlen(signature) / 2) != 1) {
			test_result(false, "SigV4a signatures verify", "%s", signature);
			return;
		}
	}
	test_result(true, "SigV4a signatures verify", " ");
	digest[31] ^= 1;
	test_result(br_ecdsa_i31_vrfy_asn1(br_ec_get_default(), digest, 32, &pub, der, strlen(signature) / 2) == 0,
	    "and no other text's", " ");
}

static void
test_bounds(void)
{
	static const unsigned char one_less[SIGV4_KEY] = {
		0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x4e,
	}, one_more[SIGV4_KEY] = {
		0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x50,
	}, zero[SIGV4_KEY];

	test_result(sigv4_not_above(sigv4_p256_n_2, sigv4_p256_n_2, SIGV4_KEY), "n - 2 fits", " ");
	test_result(sigv4_not_above(one_less, sigv4_p256_n_2, SIGV4_KEY), "n - 3 fits", " ");
	test_result(!sigv4_not_above(one_more, sigv4_p256_n_2, SIGV4_KEY), "n - 1 does not", " ");
	test_result(sigv4_not_above(zero, sigv4_p256_n_2, SIGV4_KEY), "0 fits", " ");
}

int
main(void)
{
	assert(secret_init());
	test_vectors();
	test_s3_example();
	test_paths();
	test_queries();
	test_kept();
	test_sigv4a();
	test_bounds();
	return test_end();
}
