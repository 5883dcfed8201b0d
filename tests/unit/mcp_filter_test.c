/* What an MCP server's answer may name: lists in JSON texts, alone and in batches, and in streams of events that come
 * in pieces; two filters, one behind the other. */
#include PROXY_C
#include "guard.h"

static char mcp_filter_rows[] = "-secret_*\0+get*page\0+list_*\0+\"q\"";       /* and the NUL that ends the text */
static const struct mcp some = {.connection = "c", .rest = {false, false, true, false}, .limits = {true, true, false, true}, .rows = {.p = mcp_filter_rows, .n = sizeof mcp_filter_rows}};
static const struct mcp all = {.rest = {true, true, true, true}};

/* -- patterns */
static void
fits(const char *pattern, const char *name, bool want)
{
	test_result(mcp_fits(slice_of(pattern), (struct slice){guard_copy(name, strlen(name)), strlen(name)}) == want, pattern, "against \"%s\"", name);
}

/* By the definition: each "*" tries every length. */
static bool
slow_fits(const char *p, const char *s)
{
	if (*p == '\0')
		return *s == '\0';
	if (*p != '*')
		return *s == *p && slow_fits(p + 1, s + 1);
	for (;; s++) {
		if (slow_fits(p + 1, s))
			return true;
		if (*s == '\0')
			return false;
	}
}

static void
test_fits(void)
{
	unsigned wrong = 0;
	char p[8], s[8];

	fits("create_*", "create_page", true);
	fits("create_*", "create_", true);
	fits("create_*", "xcreate_", false);
	fits("*", "", true);
	fits("", "", true);
	fits("", "a", false);
	fits("a*b*c", "a-b-b-c", true);
	fits("a*b*c", "a-c-b", false);
	fits("a**b", "ab", true);
	fits("A", "a", false);
	for (unsigned i = 0; i < 4096; i++)
		for (unsigned k = 0; k < 729; k += 1 + i % 7) {
			unsigned pn = 0, sn = 0;

			for (unsigned v = i; v != 0; v /= 4)
				p[pn++] = "ab*a"[v % 4];
			for (unsigned v = k; v != 0; v /= 3)
				s[sn++] = "aba"[v % 3];
			p[pn] = s[sn] = '\0';
			wrong += mcp_fits((struct slice){p, pn}, (struct slice){s, sn}) != slow_fits(p, s);
		}
	test_result(wrong == 0, "patterns against a matcher written from the definition", "%u differ", wrong);
}

/* -- JSON texts */
static void
edit(const char *name, const struct mcp *m, const char *in, const char *want)
{
	struct buf out;
	bool ok;

	buf_init(&out, 4096);
	ok = mcp_edit(m, (struct slice){guard_copy(in, strlen(in)), strlen(in)}, &out);
	test_result(want == NULL ? !ok : ok && slice_eq(buf_slice(&out), slice_of(want)), name, "%d %.*s", ok, (int)out.n, out.n != 0 ? out.p : "");
	for (size_t n = 0; n < strlen(in) && want != NULL; n++) {
		buf_clear(&out);
		if (mcp_edit(m, (struct slice){guard_copy(in, n), n}, &out))
			test_result(false, name, "a part of %zu bytes was taken for a whole", n);
	}
	buf_free(&out);
}

static void
test_edit(void)
{
	edit("what may be seen stays, byte for byte", &some,
	    "{ \"jsonrpc\":\"2.0\", \"id\" : 1, \"result\": { \"tools\": [ {\"name\":\"list_a\", \"x\":[1, 2]} ], \"nextCursor\":\"c\" } }",
	    "{ \"jsonrpc\":\"2.0\", \"id\" : 1, \"result\": { \"tools\": [{\"name\":\"list_a\", \"x\":[1, 2]}], \"nextCursor\":\"c\" } }");
	edit("the first, one in the middle and the last go", &some,
	    "{\"result\":{\"tools\":[{\"name\":\"a\"},{\"name\":\"list_1\"},{\"name\":\"b\"},{\"name\":\"getXpage\"},{\"name\":\"c\"}]}}",
	    "{\"result\":{\"tools\":[{\"name\":\"list_1\"},{\"name\":\"getXpage\"}]}}");
	edit("all go", &some, "{\"result\":{\"tools\":[{\"name\":\"a\"} , {\"name\":\"secret_list\"}]}}", "{\"result\":{\"tools\":[]}}");
	edit("an earlier row decides", &some, "{\"result\":{\"tools\":[{\"name\":\"secret_page\"}]}}", "{\"result\":{\"tools\":[]}}");
	edit("an escaped name", &some, "{\"result\":{\"tools\":[{\"name\":\"\\u006cist_\\u0031\"},{\"name\":\"\\\"q\\\"\"},{\"n\\u0061me\":\"b\"}]}}",
	    "{\"result\":{\"tools\":[{\"name\":\"\\u006cist_\\u0031\"},{\"name\":\"\\\"q\\\"\"}]}}");
	edit("a name that is there twice", &some, "{\"result\":{\"tools\":[{\"name\":\"list_1\",\"name\":\"b\"},{\"name\":\"b\",\"name\":\"list_1\"}]}}",
	    "{\"result\":{\"tools\":[]}}");
	edit("a name in other letters beside it", &some, "{\"result\":{\"tools\":[{\"name\":\"list_1\",\"Name\":\"b\"}]}}", "{\"result\":{\"tools\":[]}}");
	edit("no name, a number, null, an object, a list", &some,
	    "{\"result\":{\"tools\":[{},{\"name\":1},{\"name\":null},{\"name\":{\"name\":\"list_1\"}},{\"name\":[\"list_1\"]},7,\"list_1\",[{\"name\":\"list_1\"}],null]}}",
	    "{\"result\":{\"tools\":[]}}");
	edit("a name further within is none", &some, "{\"result\":{\"tools\":[{\"x\":{\"name\":\"list_1\"}}]}}", "{\"result\":{\"tools\":[]}}");
	edit("the list twice, escaped and in other letters", &some,
	    "{\"result\":{\"tools\":[{\"name\":\"b\"}],\"tool\\u0073\":[{\"name\":\"b\"}],\"TOOLS\":[{\"name\":\"b\"}],\"tool\\u017f\":[{\"name\":\"b\"}]}}",
	    "{\"result\":{\"tools\":[],\"tool\\u0073\":[],\"TOOLS\":[],\"tool\\u017f\":[]}}");
	edit("the result twice", &some, "{\"result\":{},\"resul\\u0074\":{\"tools\":[{\"name\":\"b\"}]}}", "{\"result\":{},\"resul\\u0074\":{\"tools\":[]}}");
	edit("a batch", &some, "[{\"result\":{\"tools\":[{\"name\":\"b\"}]}},{\"id\":2},[],{\"result\":{\"prompts\":[{\"name\":\"p\"}]}}]",
	    "[{\"result\":{\"tools\":[]}},{\"id\":2},[],{\"result\":{\"prompts\":[]}}]");
	edit("resources go, whatever their names; templates stay as they are", &some,
	    "{\"result\":{\"resources\":[{\"uri\":\"list_x\",\"name\":\"list_x\"},{}],\"resourceTemplates\":[{\"uriTemplate\":\"x\"},{}]}}",
	    "{\"result\":{\"resources\":[],\"resourceTemplates\":[{\"uriTemplate\":\"x\"},{}]}}");
	edit("a tool's own result with such a member further within", &some,
	    "{\"result\":{\"content\":[{\"tools\":[{\"name\":\"b\"}]}],\"structuredContent\":{\"tools\":[{\"name\":\"b\"}]}}}",
	    "{\"result\":{\"content\":[{\"tools\":[{\"name\":\"b\"}]}],\"structuredContent\":{\"tools\":[{\"name\":\"b\"}]}}}");
	edit("outside of result", &some, "{\"tools\":[{\"name\":\"b\"}],\"params\":{\"tools\":[{\"name\":\"b\"}]}}", "{\"tools\":[{\"name\":\"b\"}],\"params\":{\"tools\":[{\"name\":\"b\"}]}}");
	edit("a list that is none", &some, "{\"result\":{\"tools\":{\"name\":\"b\"}}}", NULL);
	edit("a list that is null", &some, "{\"result\":{\"tools\":null}}", "{\"result\":{\"tools\":null}}");
	edit("a cache that all share", &some, "{\"result\":{\"cacheScope\" : \"public\",\"ttlMs\":5,\"CacheScope\":null}}",
	    "{\"result\":{\"cacheScope\" : \"private\",\"ttlMs\":5,\"CacheScope\":\"private\"}}");
	edit("two texts", &some, "{\"result\":{}}{\"result\":{}}", NULL);
	edit("no JSON", &some, "{\"result\":{\"tools\":[{\"name\":\"list_1\"},]}}", NULL);
	edit("no UTF-8", &some, "{\"result\":{\"tools\":[{\"name\":\"list_\xff\"}]}}", NULL);
	edit("a name with a NUL", &some, "{\"result\":{\"tools\":[{\"name\":\"list_1\\u0000x\"},{\"name\":\"b\\u0000list_1\"}]}}",
	    "{\"result\":{\"tools\":[{\"name\":\"list_1\\u0000x\"}]}}");
	edit("who may see all", &all, "{\"result\":{\"tools\":[1,{},{\"name\":\"b\"}],\"prompts\":{}}}", "{\"result\":{\"tools\":[1,{},{\"name\":\"b\"}],\"prompts\":{}}}");
}

/* -- streams of events */
static bool
mcp_filter_run(struct filter *f, struct slice in, size_t step, struct buf *got)
{
	size_t at = 0;

	while (!f->ended) {
		size_t n = in.n - at < step ? in.n - at : step;
		struct slice piece = {guard_copy(in.p + at, n), n}, out;
		bool end = at + n == in.n;

		do {
			ssize_t took;

			out = SLICE("");
			if ((took = f->class->run(f, piece, end, &out)) < 0)
				return false;
			buf_addv(got, out);
			piece = (struct slice){piece.p + took, piece.n - (size_t)took};
		} while (piece.n != 0 || f->more || (end && !f->ended));
		at += n;
	}
	return true;
}

/* Puts the server's ids in the place of the sealed ones. */
static void
open_ids(struct buf *got)
{
	char text[1 << 13], raw[MCP_ID_NONCE + MCP_ID_MAX + MCP_ID_TAG];
	struct slice left, line;
	size_t n = got->n;

	assert(n < sizeof text);
	memcpy(text, n != 0 ? got->p : "", n);
	left = (struct slice){text, n};
	buf_clear(got);
	while (left.n != 0) {
		struct slice id = filter_mcp_value(line = slice_cut(&left, '\n'), "id");

		if (id.p != NULL && id.n != 0) {
			id = mcp_take_id(&some, mcp_event, id, raw);
			buf_join(got, (struct slice[]){SLICE("id: "), id.p != NULL ? id : SLICE("(sealed)"), SLICE("\n")}, 3);
		} else {
			buf_join(got, (struct slice[]){line, SLICE("\n")}, 2);
		}
	}
}

static void
events(const char *name, const char *in, const char *want)
{
	size_t share = 0;
	unsigned wrong = 0;

	for (size_t step = 1; step <= strlen(in) + 1; step++) {
		struct filter *f = filter_mcp_new(&some, &share, NULL);
		struct buf got;
		bool ok;

		buf_init(&got, 1 << 20);
		ok = mcp_filter_run(f, slice_of(in), step, &got);
		open_ids(&got);
		if (want == NULL ? ok : !ok || !slice_eq(buf_slice(&got), slice_of(want))) {
			if (wrong++ == 0)
				printf("# step %zu: %d \"%.*s\"\n", step, ok, (int)got.n, got.n != 0 ? got.p : "");
		}
		buf_free(&got);
		filter_free(f);
	}
	test_result(wrong == 0 && share == 0 && req_bodies == 0, name, "%u steps differ, %zu bytes counted", wrong, share);
}

#define LIST "{\"result\":{\"tools\":[{\"name\":\"b\"},{\"name\":\"list_1\"}]}}"
#define LEFT "{\"result\":{\"tools\":[{\"name\":\"list_1\"}]}}"

static void
test_events(void)
{
	events("an event", "event: message\ndata: " LIST "\n\n", "event: message\ndata: " LEFT "\n\n");
	events("CRLF, CR, and no space behind the colon", "id: 7\r\ndata:" LIST "\r\n\r\n: ping\r\rdata: {}\r\r", "id: 7\ndata: " LEFT "\n\n: ping\n\ndata: {}\n\n");
	events("data on several lines", "data: {\"result\":{\"tools\":\ndata: [{\"name\":\"b\"}\nid: 1\ndata: ]}}\n\n", "id: 1\ndata: {\"result\":{\"tools\":\ndata: []}}\n\n");
	events("a name across two lines is no JSON", "data: {\"result\":{\"tools\":[{\"name\":\"li\ndata: st_1\"}]}}\n\n", NULL);
	events("a byte order mark", "\xef\xbb\xbf" "data: " LIST "\n\n", "data: " LEFT "\n\n");
	events("an event that primes", "id: 1\ndata:\nretry: 5\n\n", "id: 1\nretry: 5\ndata:\n\n");
	events("a field without a colon", "data\n\n", "data:\n\n");
	events("an event without its end is none", "data: {}\n\ndata: " LIST "\n", "data: {}\n\n");
	events("data that is no JSON", "data: hello\n\n", NULL);
	events("empty lines", "\n\n\r\n", "\n\n\n");
	events("another field that begins so", "database: x\n\n", "database: x\n\n");
	events("nothing", "", "");
}

/* -- ids */
static void
test_ids(void)
{
	struct mcp a = {.connection = "a"}, b = {.connection = "b"};
	struct slice id = SLICE("1868a90c-1c2e-4f5a"), got;
	char raw[MCP_ID_NONCE + MCP_ID_MAX + MCP_ID_TAG], longest[MCP_ID_MAX + 1];
	struct buf text, other;
	unsigned wrong = 0;

	buf_init(&text, 2048);
	buf_init(&other, 2048);
	test_result(mcp_put_id(&a, mcp_session, id, &text) && memmem(text.p, text.n, id.p, id.n) == NULL, "a session's id is sealed", "%zu", text.n);
	got = mcp_take_id(&a, mcp_session, buf_slice(&text), raw);
	test_result(slice_eq(got, id), "and opens for its connection", "%zu", text.n);
	test_result(mcp_take_id(&b, mcp_session, buf_slice(&text), raw).p == NULL, "for no other", "%zu", text.n);
	test_result(mcp_take_id(&a, mcp_event, buf_slice(&text), raw).p == NULL, "as nothing else", "%zu", text.n);
	test_result(mcp_put_id(&a, mcp_session, id, &other) && !slice_eq(buf_slice(&text), buf_slice(&other)), "another text each time", "%zu", text.n);
	for (size_t i = 0; i < text.n; i++) {
		text.p[i] ^= 1;
		wrong += mcp_take_id(&a, mcp_session, (struct slice){guard_copy(text.p, text.n), text.n}, raw).p != NULL;
		text.p[i] ^= 1;
		wrong += mcp_take_id(&a, mcp_session, (struct slice){guard_copy(text.p, i), i}, raw).p != NULL;
	}
	test_result(wrong == 0, "flipped or cut it is none", "%u open", wrong);
	test_result(mcp_take_id(&a, mcp_session, id, raw).p == NULL, "nor is a server's own", "%zu", text.n);
	memset(longest, 'x', sizeof longest);
	buf_clear(&text);
	test_result(mcp_put_id(&a, mcp_session, (struct slice){longest, MCP_ID_MAX}, &text) &&
	    mcp_take_id(&a, mcp_session, buf_slice(&text), raw).n == MCP_ID_MAX, "the longest", "%zu", text.n);
	test_result(!mcp_put_id(&a, mcp_session, (struct slice){longest, MCP_ID_MAX + 1}, &text), "one longer is refused", "%zu", text.n);
	memset(longest, 'A', sizeof longest);
	test_result(mcp_take_id(&a, mcp_session, (struct slice){longest, sizeof longest}, raw).p == NULL, "a long text that is none", "%zu", text.n);
	buf_free(&text);
	buf_free(&other);
}

/* A large event, and one too large. */
static void
test_large(void)
{
	size_t share = 0, n = MCP_MESSAGE_MAX - 4096;
	char *p = malloc(n + 32768);
	struct filter *f = filter_mcp_new(&some, &share, NULL);
	struct buf got;
	bool ok;

	buf_init(&got, 8 << 20);
	memcpy(p, "data: \"", 7);
	memset(p + 7, 'x', n + 32000);
	memcpy(p + n, "\"\n\n", 3);
	ok = mcp_filter_run(f, (struct slice){p, n + 3}, PEER_PIECE, &got);
	test_result(ok && got.n == n + 3 && memcmp(got.p, p, got.n) == 0, "an event of nearly 4 MiB", "%d %zu", ok, got.n);
	filter_free(f);
	memset(p + n, 'x', 32000);
	f = filter_mcp_new(&some, &share, NULL);
	ok = mcp_filter_run(f, (struct slice){p, n + 32000}, PEER_PIECE, &got);
	test_result(!ok && f->fault != NULL, "one that is longer ends the answer", "%d", ok);
	filter_free(f);
	buf_free(&got);
	free(p);
	test_result(share == 0 && req_bodies == 0, "nothing stays counted", "%zu", share);
}

/* A list loses what may not be seen, and the pair's second takes an attached secret out of the rest. */
static void
test_pair(void)
{
	static struct scrub_tally tally = {.free = true};
	static const char in[] = "data: {\"result\":{\"tools\":[{\"name\":\"b\"},{\"name\":\"list_1\",\"d\":\"sk-0123456789abcdefghij\"}]}}\n\n: x\n\n";
	static const char want[] = "data: {\"result\":{\"tools\":[{\"name\":\"list_1\",\"d\":\"***********************\"}]}}\n\n: x\n\n";
	unsigned wrong = 0;

	for (size_t step = 1; step < sizeof in; step++) {
		struct scrub *s = NULL;
		struct secret *secret = secret_copy("sk-0123456789abcdefghij", 23);
		const struct scrub_table *t = NULL;
		size_t share = 0;
		struct filter *f;
		struct buf got;

		buf_init(&got, 4096);
		assert(scrub_add(&s, secret, 0, (struct slice){NULL, 0}, SLICE(""), true) && scrub_table(s, true, &t));
		f = filter_mcp_new(&some, &share, filter_scrub_new(s, t, UINT64_MAX, false, SLICE(""), &tally, &share));
		if (!mcp_filter_run(f, slice_of(in), step, &got) || !slice_eq(buf_slice(&got), slice_of(want)))
			if (wrong++ == 0)
				printf("# step %zu: \"%.*s\"\n", step, (int)got.n, got.n != 0 ? got.p : "");
		filter_free(f);
		secret_unref(secret);
		scrub_free(s);
		buf_free(&got);
	}
	test_result(wrong == 0 && req_bodies == 0, "a pair of filters", "%u steps differ", wrong);
}

int
main(void)
{
	if (!secret_init() || !scrub_init())
		return 1;
	store.keys = secret_new(sizeof(struct store_keys));
	memset(store.keys->p, 7, sizeof(struct store_keys));
	test_fits();
	test_edit();
	test_ids();
	test_events();
	test_large();
	test_pair();
	return test_end();
}
