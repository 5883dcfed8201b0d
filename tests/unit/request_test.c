/* The bindings of a request and of the host with memory failing: Lua's and C's allocations are counted together, and
 * the first, second, third … of each case fails, and all after it. Whatever comes of it, nothing stays behind. */
#include <malloc.h>
#include <stdbool.h>
#include <stdlib.h>

static long fail_after = -1;            /* allocations that still succeed; -1: all */

static bool
memory_fails(void)
{
	return fail_after >= 0 && (fail_after == 0 || fail_after-- == 0);
}

static void *
test_malloc(size_t n)
{
	return memory_fails() ? NULL : malloc(n);
}

static void *
test_calloc(size_t n, size_t size)
{
	return memory_fails() ? NULL : calloc(n, size);
}

static void *
test_realloc(void *p, size_t n)
{
	return memory_fails() ? NULL : realloc(p, n);
}

static void *
failing_alloc(void *ud, void *p, size_t osize, size_t nsize)
{
	(void)ud;
	if (nsize == 0) {
		free(p);
		return NULL;
	}
	return (p == NULL || nsize > osize) && memory_fails() ? NULL : realloc(p, nsize);
}

#define malloc(n) test_malloc(n)
#define calloc(n, size) test_calloc(n, size)
#define realloc(p, n) test_realloc(p, n)
#include PROXY_C
#include "guard.h"

#define POST "local head = 'POST https://api.test/v1/ph_one/x?a=1&key=mine&b=2 HTTP/1.1\\r\\nHost: example\\r\\n'\n" \
    "for name, value in pairs { ['content-type'] = kind, authorization = 'Basic dTpwaF9vbmU=', ['x-a'] = 'ph_one' } do\n" \
    "head = head .. name .. ': ' .. value .. '\\r\\n' end\n" \
    "if body then head = head .. 'Content-Length: ' .. #body .. '\\r\\n' end\n" \
    "local r = request.example(head .. '\\r\\n', body)\n" \
    "local v = r:view()\n"
#define KEYS "access_key = 'AKIDEXAMPLE', secret = secret, region = 'us-east-1', service = 's3', token = secret"
#define ROW "request.places"

static const struct { const char *name, *chunk; } cases[] = {
	{"headers", "local body, kind\n" POST
	    "v.headers:set('X-One', secret) v.headers:set('x-one', 'two') v.headers:set('x-two', secret)\n"
	    "assert(v.headers:get('x-one') == 'two' and core.is(v.headers:get('x-two')))\n"
	    "assert(#v.headers:names() == 4) v.headers:remove('x-two') assert(v.headers:get('x-two') == nil)\n"
	    "assert(r:dump().headers['x-one'] == 'two')"},
	{"as many headers as a list holds", "local body, kind\n" POST "local n, h = 0, v.headers\n"
	    "while pcall(h.set, h, 'x-' .. n, 'v' .. n) do n = n + 1 end assert(n >= 100 and n < 200)\n"
	    "h:remove 'x-7' h:set('x-more', secret) h:set('X-9', 'nine')\n"
	    "assert(h:get 'x-7' == nil and h:get 'x-8' == 'v8' and h:get 'x-9' == 'nine' and h:get('x-' .. n - 1) == 'v' .. n - 1)\n"
	    "assert(core.is(h:get 'x-more') and not pcall(h.set, h, 'x-7', 'v7') and h:get 'x-7' == nil)"},
	{"query", "local body, kind\n" POST
	    "v.query:set('key', secret) v.query:set('key', 'plain') v.query:remove('a') v.query:set('new', secret)\n"
	    "assert(v.query:get('b') == '2') \n"
	    "assert(core.is((r:target()))) local d = r:dump()\n"
	    "assert(d.url == 'https://api.test/v1/ph_one/x?b=2&key=plain&new=canary-canary-canary', d.url)"},
	{"long values in a query", "local body, kind\n" POST "for _ = 1, 3 do\n"
	    "v.query:set('key', ('k'):rep(9000)) end"},
	{"strip", "local body, kind = 'a=1&token=t&b=2', 'application/x-www-form-urlencoded'\n" POST
	    "r:strip { headers = { authorization = true }, query = { 'key' }, form = { 'token' }, routing = true }\n"
	    "assert(v.stripped.query.key == 'mine' and v.stripped.headers.authorization and v.body == 'a=1&b=2')"},
	{"a body that is set", "local body, kind = '{}', 'application/json'\n" POST
	    "v.body = 'x' v.body = secret assert(core.is(v.body)) v.body = 'y'"},
	{"a body that is edited", "local body, kind = '{\"a\":1,\"key\":\"old\"}', 'application/json'\n" POST
	    "assert(v:splice_json('key', secret)) assert(v:splice_json('new', 'plain'))\n"
	    "assert(r:dump().body == '{\"new\":\"plain\",\"a\":1,\"key\":\"canary-canary-canary\"}')"},
	{"a form that is edited", "local body, kind = 'a=1&key=old', 'application/x-www-form-urlencoded'\n" POST
	    "assert(v:splice_form('key', secret)) assert(r:dump().body == 'a=1&key=canary-canary-canary')"},
	{"a filter", "local body, kind\n" POST "v:filter('test_twice') v:filter('test_upper')"},
	{"a signature in the head", "local body, kind = 'x', 'text/plain'\n" POST
	    "v:sigv4 { " KEYS ", s3 = true, hash_header = true } assert(core.is(v.headers:get('authorization')))\n"
	    "v:sigv4 { " KEYS ", region_set = '*' }"},
	{"a signature of chunks", "local body, kind = 'x', 'text/plain'\n" POST
	    "v:sigv4 { " KEYS ", payload = 'STREAMING-AWS4-HMAC-SHA256-PAYLOAD', hash_header = true }"},
	{"a signature in the query", "local body, kind\n" POST
	    "v:sigv4 { " KEYS ", query = true, expires = '60', token_after = true, payload = 'UNSIGNED-PAYLOAD' }\n"
	    "assert(core.is(v.query_text))"},
	{"rows", "local body, kind = '{\"a\":\"ph_one\"}', 'application/json'\n" POST "local p = " ROW "\n"
	    "assert(r:substitute { { 'ph_one', secret, p.header, 'x-a' }, { 'ph_one', secret, p.basic }, { 'ph_two', secret, p.query, 'a' },\n"
	    "  { 'mine', secret, p.query, 'key' }, { 'ph_one', secret, p.path, nil, 4, 10 }, { 'ph_one', secret, p.json, 'a\\0' } })\n"
	    "local d = r:dump() assert(d.body == '{\"a\":\"canary-canary-canary\"}' and d.headers['x-a'] == 'canary-canary-canary')\n"
	    "assert(d.headers.authorization == 'Basic dTpjYW5hcnktY2FuYXJ5LWNhbmFyeQ==')\n"
	    "assert(d.url == 'https://api.test/v1/canary-canary-canary/x?a=1&key=canary-canary-canary&b=2', d.url)"},
	{"rows, once more", "local body, kind = 'k=ph_one', 'application/x-www-form-urlencoded'\n" POST
	    "for _ = 1, 2 do assert(r:substitute { { 'ph_one', secret, " ROW ".form, 'k' }, { 'mine', secret, " ROW ".query, 'key' } }) end\n"
	    "assert(r:dump().body == 'k=canary-canary-canary')"},
	{"rows in a form of parts", "local body, kind = '--x\\r\\n\\r\\nph_one\\r\\n--x--', 'multipart/form-data; boundary=x'\n" POST
	    "assert(r:substitute { { 'ph_one', secret, " ROW ".part, nil, 7, 13 } })\n"
	    "assert(r:dump().body == '--x\\r\\n\\r\\ncanary-canary-canary\\r\\n--x--')"},
	{"what an answer must not repeat", "local body, kind\n" POST
	    "assert(r:hide({ secret, core.of 'another-canary' }, {}, 'ph_one')) v.headers:set('x-c', core.of 'Bearer of-more-canaries')\n"
	    "assert(r:hide({}, {}, 'ph')) local many = {} for i = 1, 65 do many[i] = core.of('a-canary' .. i) end assert(not r:hide({}, many, 'ph'))"},
	{"known placeholders", "local body, kind\n" POST "local set = request.known()\n"
	    "for i = 1, 70 do set:add('c' .. i, ('placeholder_%07d'):format(i), 'placeholder/a/', '') end\n"
	    "v.headers:set('x-b', 'Bearer placeholder_0000007') v.query:set('z', 'placeholder_0000009')\n"
	    "assert(select('#', r:known(set)) == 2 and r:presents { { text = 'ph_one' } })\n"
	    "for i = 1, 9 do set:drop('c' .. i) end assert(select('#', r:known(set)) == 0)"},
	{"an answer of our own", "local body, kind\n" POST
	    "r:fail(403, 'denied', ('m'):rep(900), 'hint', { retry_after = 3 }) r:respond(200, { { 'content-type', 'text/plain' } }, ('x'):rep(9000))"},
	{"a decision", "local body, kind\n" POST
	    "r:forward { host = 'x.test', addresses = { '10.0.0.0/8' }, watch = true } r:tunnel { addresses = {} }"},
	{"a request of our own", "for _, secure in ipairs { false, true } do\n"
	    "local ok, why = pcall(http_client.request, { host = '127.0.0.1', port = 1, secure = secure, authority = '127.0.0.1:1',\n"
	    "  method = 'POST', headers = { { 'x-a', secret } }, target = secret, body = secret, addresses = { '127.0.0.1/32' } }, 1 << 60)\n"
	    "assert(not ok) if why:find 'cannot wait here' == nil then error(why, 0) end end"},
	{"an identity", "assert(tls.identity(nil, nil, 'pins:' .. ('ab'):rep(16)))"},
	{"texts", "assert(#host.random(32) == 32)"},
};

static int
open_all(lua_State *L)
{
	static const struct { const char *name; const luaL_Reg *list; void (*open)(lua_State *); } module[] = {
		{"core", l_core_functions, l_open_secret_core}, {"request", l_request, l_open_request},
	};

	luaL_openlibs(L);
	luaL_newlib(L, l_http_client);
	lua_setglobal(L, "http_client");
	luaL_newlib(L, l_tls);
	lua_setglobal(L, "tls");
	l_open_handles(L);
	for (size_t i = 0; i < COUNT(module); i++) {
		lua_newtable(L);
		luaL_setfuncs(L, module[i].list, 0);
		module[i].open(L);
		lua_setglobal(L, module[i].name);
	}
	l_open_host(L, true);
	lua_setglobal(L, "host");
	return luaL_dostring(L, "secret = core.of 'canary-canary-canary'") == LUA_OK ? 0 : lua_error(L);
}

/* What a case must leave as it was. */
static struct left {
	size_t bodies, fds, live;
	uint32_t blocks[SECRET_ORDERS];
} before;

static struct left
look(void)
{
	struct left l = {.bodies = req_bodies, .live = secret_arena.live};
	struct dirent *e;
	DIR *d = opendir("/proc/self/fd");

	while (d != NULL && (e = readdir(d)) != NULL)
		l.fds++;
	if (d != NULL)
		closedir(d);
	memcpy(l.blocks, secret_arena.free, sizeof l.blocks);
	return l;
}

/* One run. False: it raised; `why` says what. */
static char why[512];

static bool
run(const char *chunk, long allocations)
{
	lua_State *L = lua_newstate(failing_alloc, NULL);
	bool ok;

	assert(L != NULL);
	*(struct task **)lua_getextraspace(L) = NULL;   /* no task */
	lua_pushcfunction(L, open_all);
	if (lua_pcall(L, 0, 0, 0) != LUA_OK || luaL_loadstring(L, chunk) != LUA_OK) {
		printf("# %s\n", lua_tostring(L, -1));
		abort();
	}
	fail_after = allocations;
	ok = lua_pcall(L, 0, 0, 0) == LUA_OK;
	fail_after = -1;
	snprintf(why, sizeof why, "%s", ok || lua_type(L, -1) != LUA_TSTRING ? "" : lua_tostring(L, -1));
	lua_close(L);
	buf_free(&lua_text);            /* as task_recycle does it */
	loop_run_deferred();
	return ok;
}

static void
test_case(const char *name, const char *chunk)
{
	bool done = false, clean = true;
	struct left after;
	long k;

	if (!run(chunk, -1)) {
		test_result(false, name, "%s", why);
		return;
	}
	before = look();
	for (k = 0; !done && k < 5000; k++) {
		done = run(chunk, k);
		after = look();
		clean = memcmp(&before, &after, sizeof before) == 0;
		if (!clean)
			break;
	}
	test_result(done && clean, name, "with %ld allocations: %s; bodies %zu, descriptors %zu, secrets %zu", k, why,
	    req_bodies, after.fds, secret_arena.live);
}

static void
nothing(struct timer *t)
{
	(void)t;
}

int
main(void)
{
	static struct timer t;
	unsigned char key[SIGV4_KEY];
	struct sigv4_scope scope;

	assert(secret_init() && loop_init(false) && tls_init() && tls_worker_init());
	timer_set(&t, INT64_MAX, nothing);      /* the heap is there: without room for a deadline a worker ends */
	/* the block of kept keys is there */
	assert(sigv4_scope_init(&scope, 0, SLICE("r"), SLICE("s"), false) &&
	    sigv4_key(SLICE("s"), SLICE("a"), &scope, key));
	assert((store.keys = secret_new(sizeof(struct store_keys))) != NULL);   /* that of no store: placeholders can be told */
	for (size_t i = 0; i < COUNT(cases); i++)
		test_case(cases[i].name, cases[i].chunk);
	return test_end();
}
