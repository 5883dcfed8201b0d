/* What a token endpoint may answer, and a person may paste as a key: the JSON reader, `expect`, key_info,
 * and Lua's json.decode, which must agree with the reader. */
#include PROXY_C

static lua_State *fuzz_lua;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	if (!secret_init() || (fuzz_lua = luaL_newstate()) == NULL)
		abort();
	luaL_openlibs(fuzz_lua);
	lua_bind(fuzz_lua, "secret.core", l_core_functions);
	l_open_secret_core(fuzz_lua);
	lua_bind(fuzz_lua, "json.core", l_json_functions);
	l_open_json(fuzz_lua);
	if (luaL_dostring(fuzz_lua, "package.path = 'lua/?.lua'  json = require 'json'") != LUA_OK)
		abort();
	return 0;
}

/* Tokens come in order and lie in the text; strings come out no longer than they went in, as UTF-8. */
static void
fuzz_token(const struct json_token *t, struct slice in, const char **last)
{
	struct buf quoted = {.max = 1 << 24};
	char *out;
	size_t len;

	if (t->raw.p < *last || t->raw.p + t->raw.n > in.p + in.n || t->depth > JSON_DEPTH_MAX)
		abort();
	*last = t->raw.p + t->raw.n;
	if (t->type != JSON_STRING && t->type != JSON_KEY)
		return;
	len = json_unescape(NULL, t);
	if (len > t->raw.n - 2 || (!t->escaped && len != t->raw.n - 2))
		abort();
	out = malloc(len + 1);
	if (json_unescape(out, t) != len || !json_spells(t, (struct slice){out, len}, false))
		abort();
	if (!json_put(&quoted, (struct slice){out, len}, false))
		abort();
	buf_free(&quoted);
	free(out);
}

/* What is read over is judged as what is read: the tokens of at most this depth are the same, and so is the end. */
static void
fuzz_within(struct slice in, unsigned depth)
{
	struct json_reader all, some;
	struct json_token a, s;

	json_open(&all, in);
	json_open(&some, in);
	do {
		do
			json_next(&all, &a);
		while (a.type > JSON_END && a.depth > depth);
		if (json_next_within(&some, &s, depth) != a.type || s.raw.p != a.raw.p || s.raw.n != a.raw.n || some.at != all.at || some.depth != all.depth || some.want != all.want ||
		    (a.type > JSON_END && (s.depth != a.depth || s.escaped != a.escaped)))
			abort();
	} while (a.type > JSON_END);
}

static bool
fuzz_reader(struct slice in)
{
	struct json_reader r;
	struct json_token t;
	const char *last = in.p;

	json_open(&r, in);
	while (json_next(&r, &t) != JSON_BAD && t.type != JSON_END)
		fuzz_token(&t, in, &last);
	for (unsigned depth = 0; depth < 4; depth++)
		fuzz_within(in, depth);
	return t.type == JSON_END;
}

/* What an MCP server answers loses tools, and is JSON before and after; nothing more is to be lost then. */
static void
fuzz_edit(struct slice in, bool ok)
{
	static char rows[] = "+get_*\0=-";
	static const struct mcp m = {.rest = {true, true, true, true}, .limits = {true}, .rows = {.p = rows, .n = sizeof rows}};
	struct buf out = {.max = 1 << 24}, again = {.max = 1 << 24};

	if (mcp_edit(&m, in, &out) && (!ok || !fuzz_reader(buf_slice(&out)) || !mcp_edit(&m, buf_slice(&out), &again) || !slice_eq(buf_slice(&out), buf_slice(&again))))
		abort();
	buf_free(&out);
	buf_free(&again);
}

static void
fuzz_expect(struct slice in, bool ok)
{
	static const char *const names[] = {"access_token", "expires_in", "error", "scope", "ok"};
	struct secret_scope scope = {0};

	lua_newtable(fuzz_lua);
	for (int i = 0; i < 5; i++) {
		lua_pushstring(fuzz_lua, l_expect_names[i]);
		lua_setfield(fuzz_lua, -2, names[i]);
	}
	secret_scope_now = &scope;
	if (l_json_expect(fuzz_lua, in, -1) == 1 && !ok)
		abort();
	secret_scope_now = NULL;
	while (scope.first != NULL)
		secret_handle_empty(scope.first);
	buf_free(&lua_text);
	lua_settop(fuzz_lua, 0);
	if (secret_arena.live != 0)
		abort();
}

/* json.decode refuses what the reader refuses; what it takes is written again and read to the same text. */
static void
fuzz_decode(struct slice in, bool ok)
{
	static const char again[] =
	    "local json, text, ok = json, ...\n"
	    "local v, code = json.decode(text)\n"
	    "if v == nil then return not (ok and code == 'malformed') end\n"
	    "local t = json.encode(v)\n"
	    "return ok and json.encode(json.decode(t)) == t and json.build(v) == t";

	if (luaL_loadstring(fuzz_lua, again) != LUA_OK)
		abort();
	lua_pushlstring(fuzz_lua, in.p, in.n);
	lua_pushboolean(fuzz_lua, ok);
	if (lua_pcall(fuzz_lua, 2, 1, 0) != LUA_OK || !lua_toboolean(fuzz_lua, -1))
		abort();
	lua_settop(fuzz_lua, 0);
}

/* A key that reads well may be anything but sound: it signs, or says why not, and its public half fits. */
static void
fuzz_key(struct slice in)
{
	static const unsigned algs[] = {3, 5, 6, 7};    /* RS256, RS512, ES256, ES384 */
	unsigned char sig[SIGN_MAX];
	uint8_t room[SIGN_SPKI_MAX];
	struct der d = {room, room + sizeof room};
	size_t n;

	for (size_t i = 0; i < sizeof algs / sizeof *algs; i++) {
		const struct sign_alg *a = &sign_algs[algs[i]];

		if (sign_make(a, in, SLICE("x"), sig, &n) == NULL ? n == 0 || n > sizeof sig : n != 0)
			abort();
	}
	if (key_public(in, &d) == NULL && (d.at < room || *d.at != 0x30))
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *copy = malloc(n == 0 ? 1 : n);    /* exactly as long, so that ASan sees a byte too far */
	struct slice in = {copy, n};
	struct key_info info;
	bool ok;

	if (n != 0)
		memcpy(copy, data, n);
	ok = fuzz_reader(in);
	fuzz_edit(in, ok);
	fuzz_expect(in, ok);
	fuzz_decode(in, ok);
	if (key_read(in, NULL, &info) == NULL)
		fuzz_key(in);
	free(copy);
	return 0;
}
