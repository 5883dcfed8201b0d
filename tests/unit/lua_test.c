/* Section lua of proxy.c: tasks, allowances, and allocation that fails 1, 2, 3… times in.
 * What policies can and cannot do is in sandbox_test.lua. */
#include PROXY_C

static int passed, failed;

#define LUA_CHECK(cond) lua_check((cond), __func__, #cond, __LINE__)
static void
lua_check(bool ok, const char *test, const char *what, int line)
{
	if (ok)
		passed++;
	else
		printf("not ok %d - %s: line %d: %s\n", ++failed + passed, test, line, what);
}

static void
close_state(void)
{
	struct task *t;

	if (lua_main == NULL)
		return;
	while ((t = pool_get(&task_pool)) != NULL) {
		task_free(t);
	}
	lua_close(lua_main);
	lua_main = NULL;
	lua_worker = false;
}

static void
lua_fresh(bool worker)
{
	close_state();
	if (lua_open_state(worker) == NULL)
		abort();
}

/* -- what the tests' Lua may call */

static struct task *waiting;    /* the one that waits in test.wait */
static bool may_go, closed;
static char running_slot[LUA_NAME_MAX];
static char seen_policy[LUA_NAME_MAX];

static int
l_test_wait_k(lua_State *L, int status, lua_KContext ctx)
{
	(void)status;
	if (may_go) {
		lua_pushliteral(L, "woken");
		return 1;
	}
	if (clock_read(CLOCK_MONOTONIC) >= (int64_t)ctx) {
		lua_pushliteral(L, "timeout");
		return 1;
	}
	waiting = task_of(L);
	return task_yield(L, (int64_t)ctx, ctx, l_test_wait_k);
}

/* test.wait([ms]) -> "woken" | "timeout" */
static int
l_test_wait(lua_State *L)
{
	lua_Integer ms = luaL_optinteger(L, 1, -1);

	return l_test_wait_k(L, LUA_OK, ms < 0 ? (lua_KContext)INT64_MAX : (lua_KContext)(clock_now() + ms));
}

/* test.wake_self(): a wake that comes before the wait */
static int
l_test_wake_self(lua_State *L)
{
	may_go = true;
	task_wake(task_of(L));
	return 0;
}

static int
l_test_die(lua_State *L)
{
	task_abandon(task_of(L));
	return 0;
}

static int
l_test_closed(lua_State *L)
{
	(void)L;
	closed = true;
	return 0;
}

/* test.guard() -> a value whose end is seen */
static int
l_test_guard(lua_State *L)
{
	lua_newtable(L);
	lua_newtable(L);
	lua_pushcfunction(L, l_test_closed);
	lua_setfield(L, -2, "__close");
	lua_setmetatable(L, -2);
	return 1;
}

static int
l_test_policy(lua_State *L)
{
	(void)L;
	memcpy(seen_policy, running_slot, sizeof seen_policy);
	return 0;
}

static int
l_make_secret(lua_State *L)
{
	memset(l_text_room(L, true, 100), 'x', 100);
	return l_text_push(L);
}

static const luaL_Reg l_test[] = {
	{"wait", l_test_wait}, {"wake_self", l_test_wake_self}, {"die", l_test_die}, {"guard", l_test_guard},
	{"policy", l_test_policy}, {"secret", l_make_secret}, {NULL, NULL},
};

/* -- running */

static struct result {
	bool called, ok;
	int n;
	char text[512];
} result;

static void
lua_done(struct task *t, bool ok, lua_State *co)
{
	struct result *r = t->owner;
	const char *s;

	r->called = true;
	r->ok = ok;
	r->n = lua_gettop(co);
	s = r->n > 0 && lua_type(co, -1) == LUA_TSTRING ? lua_tostring(co, -1) : "";
	snprintf(r->text, sizeof r->text, "%s", s);
}

static int
push_two(lua_State *co, void *arg)
{
	lua_pushstring(co, arg);
	lua_pushinteger(co, 2);
	return 2;
}

struct chunk {
	const char *text;
	int ref;
};

static int
l_load_chunk(lua_State *L)
{
	struct chunk *c = lua_touserdata(L, 1);

	lua_bind(L, "test", l_test);
	if (luaL_loadbufferx(L, c->text, strlen(c->text), "=test", "t") != LUA_OK)
		return lua_error(L);
	c->ref = luaL_ref(L, LUA_REGISTRYINDEX);
	return 0;
}

/* A task on this text, begun; NULL: no memory. */
static struct task *
begin(const char *text)
{
	struct chunk c = {text, LUA_NOREF};
	struct task *t;

	result = (struct result){0};
	may_go = closed = false;
	waiting = NULL;
	if (!lua_protect(l_load_chunk, &c))
		return NULL;
	if ((t = task_new(c.ref, push_two, (char *){"one"}, &result, lua_done)) == NULL) {
		luaL_unref(lua_main, LUA_REGISTRYINDEX, c.ref);
		return NULL;
	}
	task_run(t);
	luaL_unref(lua_main, LUA_REGISTRYINDEX, c.ref);
	return t;
}

static void
turn(void)
{
	loop_time = clock_read(CLOCK_MONOTONIC);
	while (timer_n != 0 && timer_heap[1]->at <= loop_time) {        /* as loop_run does it */
		struct timer *t = timer_heap[1];

		timer_stop(t);
		t->fire(t);
	}
	loop_run_deferred();
}

/* -- tests */

static void
test_tasks(void)
{
	lua_fresh(false);
	begin("return ...");
	LUA_CHECK(result.called && result.ok && result.n == 2);
	begin("local a, b = ... return a .. b");
	LUA_CHECK(result.ok && strcmp(result.text, "one2") == 0);
	begin("local function f() error('broken') end\nf()");
	LUA_CHECK(result.called && !result.ok);
	LUA_CHECK(strstr(result.text, "test:1: broken") != NULL && strstr(result.text, "traceback") != NULL);
	begin("error({})");
	LUA_CHECK(result.called && !result.ok && strstr(result.text, "not a string") != NULL);
	begin("return 'after an error'");
	LUA_CHECK(result.ok && strcmp(result.text, "after an error") == 0);
	LUA_CHECK(task_pool.n == 1);
}

static void
test_wait(void)
{
	struct task *t;

	lua_fresh(false);
	t = begin("local test = require 'test' return test.wait()");
	LUA_CHECK(!result.called && waiting == t);
	turn();
	LUA_CHECK(!result.called);
	task_wake(t);           /* for nothing: it looks, and waits again */
	turn();
	LUA_CHECK(!result.called);
	may_go = true;
	task_wake(t);
	task_wake(t);
	LUA_CHECK(!result.called);  /* never from within */
	turn();
	LUA_CHECK(result.ok && strcmp(result.text, "woken") == 0);

	t = begin("return require('test').wait(5)");
	LUA_CHECK(!result.called && t->deadline.slot != 0);
	usleep(6000);
	turn();
	LUA_CHECK(result.ok && strcmp(result.text, "timeout") == 0);
	LUA_CHECK(t->deadline.slot == 0);

	begin("local test = require 'test' test.wake_self() may = test.wait() return may");
	turn();
	LUA_CHECK(result.ok && strcmp(result.text, "woken") == 0);

	begin("coroutine.yield() return 1");
	LUA_CHECK(result.called && !result.ok && strstr(result.text, "nothing will wake it") != NULL);
	begin("return coroutine.wrap(function() return pcall(require('test').wait) end)()");
	LUA_CHECK(result.ok && strstr(result.text, "cannot wait here") != NULL);

	begin("return pcall(table.sort, { 1, 2 }, function() require('test').wait() end)");
	LUA_CHECK(result.ok && strstr(result.text, "cannot wait here") != NULL);
}

static void
test_abandon(void)
{
	struct task *t;
	size_t live;

	lua_fresh(false);
	live = secret_arena.live;
	t = begin("local test = require 'test' local g <close> = test.guard() kept = test.secret() test.wait()");
	LUA_CHECK(secret_arena.live == live + 1);
	task_abandon(t);
	LUA_CHECK(closed && !result.called);
	LUA_CHECK(secret_arena.live == live);       /* though a global still holds the handle */
	LUA_CHECK(t->state == TASK_IDLE && task_pool.n == 1);
	turn();
	begin("local s = kept return pcall(function() return s .. '' end)");
	LUA_CHECK(result.ok && result.n == 2 && strstr(result.text, "closed") != NULL);

	begin("local test = require 'test' local g <close> = test.guard() test.die() test.wait() error('resumed')");
	LUA_CHECK(closed && !result.called && task_pool.n == 1);
	begin("local test = require 'test' local g <close> = test.guard() test.die() return 1");
	LUA_CHECK(closed && !result.called && task_pool.n == 1);

	t = begin("require('test').wait()");
	task_wake(t);
	task_abandon(t);        /* its wake is queued */
	turn();
	LUA_CHECK(!result.called);

	t = begin("require('test').wait(50)");
	task_abandon(t);        /* its timer runs */
	usleep(60000);
	turn();
	LUA_CHECK(!result.called && t->deadline.slot == 0);

	begin("kept = require('test').secret() return 1");
	LUA_CHECK(result.ok && secret_arena.live == live);
	begin("kept = require('test').secret() error('x')");
	LUA_CHECK(!result.ok && secret_arena.live == live);
}

static void
test_pool(void)
{
	struct task *all[LUA_POOL_MAX + 16];

	lua_fresh(false);
	for (size_t i = 0; i < LUA_POOL_MAX + 16; i++)
		all[i] = begin("require('test').wait()");
	for (size_t i = 0; i < LUA_POOL_MAX + 16; i++)
		task_abandon(all[i]);
	LUA_CHECK(task_pool.n == LUA_POOL_MAX);
	LUA_CHECK(begin("return 1") != NULL && result.ok && task_pool.n == LUA_POOL_MAX);
}

static const char enter[] = /* a policy that does what follows */
    "local sandbox, test = require 'sandbox', require 'test'\n"
    "local function policy(text, ...)\n"
    "  local f = assert(sandbox.load(text, '@policies/p.lua', require 'allowed'.env { test = test }))\n"
    "  return sandbox.call('p', f, ...)\n"
    "end\n";

static void
run_policy(const char *text)
{
	char all[2048];

	snprintf(all, sizeof all, "%s%s", enter, text);
	begin(all);
}

static void
test_allowance(void)
{
	size_t used;

	lua_fresh(true);
	lua_gc(lua_main, LUA_GCCOLLECT);
	used = lua_used;
	run_policy("local ok, _, why = policy 'while true do end' return why");
	LUA_CHECK(result.ok && strcmp(result.text, "budget") == 0);
	LUA_CHECK(lua_now.co == NULL && lua_now.limit == SIZE_MAX);
	run_policy("local ok, _, why = policy 'local t = {} while true do t[#t+1] = (\"x\"):rep(999) .. #t end' return why");
	LUA_CHECK(result.ok && strcmp(result.text, "memory") == 0);
	embed_forget();         /* as a worker that has started does */
	lua_gc(lua_main, LUA_GCCOLLECT);
	lua_gc(lua_main, LUA_GCCOLLECT);
	LUA_CHECK(lua_used < used + 256 * 1024);
	/* Nested coroutines of work: the allowance ends with each resume, not with the task. */
	run_policy("for i = 1, 3 do assert(policy('for i = 1, 300000 do end')) end return 'ok'");
	LUA_CHECK(result.ok && strcmp(result.text, "ok") == 0);
	/* A worker's own code is bounded in memory alone. */
	begin("local n = 0 for i = 1, 3000000 do n = n + 1 end return 'done'");
	LUA_CHECK(result.ok);
	begin("local t = {} while true do t[#t + 1] = ('x'):rep(999) .. #t end");
	LUA_CHECK(result.called && !result.ok && strstr(result.text, "not enough memory") != NULL);
	begin("return 'next'");
	LUA_CHECK(result.ok);
	begin("return ((' '):rep(65536) .. 'x'):find('^ *(.-) *$'), (' '):rep(65536):match('.-.-x')");
	LUA_CHECK(result.called && !result.ok && strstr(result.text, "may take too long") != NULL);
}

static void
test_running(void)
{
	lua_fresh(false);
	lua_running = running_slot;
	run_policy("policy 'test.policy()' return 1");
	LUA_CHECK(result.ok && strcmp(seen_policy, "p") == 0);
	LUA_CHECK(running_slot[0] == '\0');
	run_policy("return sandbox.wait('patient', function() test.wait() test.policy() return 'x' end)");
	LUA_CHECK(!result.called && running_slot[0] == '\0');
	may_go = true;
	task_wake(waiting);
	turn();
	LUA_CHECK(result.ok && strcmp(seen_policy, "patient") == 0 && running_slot[0] == '\0');
	run_policy("return sandbox.wait('patient', test.wait)");
	task_abandon(waiting);
	LUA_CHECK(running_slot[0] == '\0');
	run_policy("return sandbox.call(('n'):rep(500), test.policy)");
	LUA_CHECK(result.ok && strlen(seen_policy) == LUA_NAME_MAX - 1);
	lua_running = lua_running_own;
}

static void
test_worker_lacks(void)
{
	lua_fresh(true);
	begin("return tostring(io) .. tostring(os) .. tostring(debug) .. tostring(load) .. tostring(loadfile) .. "
	    "tostring(dofile) .. tostring(coroutine) .. tostring(package) .. tostring(string.dump)");
	LUA_CHECK(result.ok && strcmp(result.text, "nilnilnilnilnilnilnilnilnil") == 0);
	begin("return require '../../etc/passwd'");
	LUA_CHECK(!result.ok && strstr(result.text, "not found") != NULL);
	setenv("LUA_PATH", "/tmp/?.lua", 1);
	setenv("SALLYPORT_LUA_PATH", "/tmp/?.lua", 1);
	begin("return require 'nothing'");
	LUA_CHECK(!result.ok && strstr(result.text, "not found: no embedded lua/nothing.lua") != NULL);
}

/* Everything that a task may allocate, failing at each place in turn. */
static void
test_no_memory_in_tasks(void)
{
	static const char *const work[] = {
		"return ('x'):rep(100) .. select(2, ...)",
		"local test = require 'test' local g <close> = test.guard() local s = test.secret() error('x')",
		"local test = require 'test' pcall(test.wait) return 1",
		"return policy('return (\"a b\"):gsub(\"%w\", function(c) return c .. c end)')",
		"return policy('local t = {} for k in (\"a b c\"):gmatch(\"%w\") do t[#t+1] = k end return table.concat(t)')",
		"return policy('return lpeg.match(lpeg.Ct(lpeg.C(lpeg.R\"az\"^1)), \"abc\")')",
		"return policy('error{}')",
		"return sandbox.wait('p', function() test.wait() return 1 end)",
	};
	size_t live = secret_arena.live;

	embed_keeps = true;             /* or the pack is unpacked for every n */
	for (size_t w = 0; w < sizeof work / sizeof *work; w++) {
		bool through = false;

		lua_fresh(false);
		for (int64_t n = 0; n < 5000 && !through; n++) {
			struct task *t;

			waiting = NULL;
			lua_fail_after = n;
			if (strstr(work[w], "policy") != NULL || strstr(work[w], "sandbox") != NULL) {
				run_policy(work[w]);
				t = waiting;
			} else {
				t = begin(work[w]);
				t = waiting == t ? t : NULL;
			}
			if (t != NULL && !result.called) {
				may_go = true;
				task_wake(t);
				turn();
			}
			through = lua_fail_after > 0;   /* it needed no more */
			lua_fail_after = -1;
		}
		LUA_CHECK(through);
		LUA_CHECK(lua_now.co == NULL && task_running == NULL && secret_scope_now == NULL);
		close_state();
		LUA_CHECK(lua_used == 0);
		LUA_CHECK(secret_arena.live == live);
	}
}

static void
test_no_memory_at_the_start(void)
{
	int64_t n;

	close_state();
	for (n = 0;; n += n < 300 ? 1 : 97) {   /* each of the first, then a sample: a state takes thousands */
		lua_fail_after = n;
		if (lua_open_state(false) != NULL)
			break;
		if (lua_used != 0)
			LUA_CHECK(lua_used == 0);
	}
	lua_fail_after = -1;
	LUA_CHECK(n > 300);
	close_state();
	LUA_CHECK(lua_used == 0);
}

/* The whole of a pack's text; NULL: refused. */
static unsigned char *
unpack(const unsigned char *pack, size_t packed)
{
	struct embed_pack p;
	unsigned char *text = NULL;

	if (!embed_begin(&p, pack, packed))
		return NULL;
	if (embed_unpack(&p, p.n)) {
		text = p.text;
		p.text = NULL;
	}
	embed_end(&p);
	return text;
}

/* What the binary brings is what stands in policies/, to the byte. */
static void
test_embedded(void)
{
	struct embed_pack p;
	unsigned char *text = unpack(embed_packed, (size_t)(embed_packed_end - embed_packed));
	unsigned policies = 0;

	LUA_CHECK(text != NULL && embed_begin(&p, embed_packed, (size_t)(embed_packed_end - embed_packed)));
	LUA_CHECK(p.n > 50 && lzma_memusage(&p.z) < EMBED_MEMORY_MAX);
	for (unsigned i = 0; i < embed_count; i++) {
		const struct embed_file *f = &embed_files[i];
		const char *name = embed_base + f->name;
		char *file = malloc(f->n + 2);
		FILE *in = fopen(name, "r");

		LUA_CHECK(f->from <= p.n && f->n <= p.n - f->from && f->n > 50);
		/* as commands do: so far and no further, then on from there */
		LUA_CHECK(embed_unpack(&p, f->from + f->n) && p.z.total_out == f->from + f->n);
		LUA_CHECK(memcmp(p.text + f->from, text + f->from, f->n) == 0);
		if (in != NULL && strncmp(name, "policies/", 9) == 0) {
			LUA_CHECK(fread(file, 1, f->n + 2, in) == f->n && memcmp(text + f->from, file, f->n) == 0);
			policies++;
		}
		if (in != NULL)
			fclose(in);
		free(file);
	}
	LUA_CHECK(policies > 3);
	LUA_CHECK(embed_unpack(&p, 1) && embed_unpack(&p, p.n));    /* what is there already */
	embed_end(&p);
	free(text);
}

/* Bytes of a packed text changed, and its end cut, at places all over it: refused, and never beyond the bounds.
 * The first 13 bytes behind the length are the LZMA header (its dictionary may be said to be larger: the same text). */
static void
test_pack_damaged(void)
{
	size_t packed = (size_t)(embed_packed_end - embed_packed), n, step = packed / 50;
	unsigned char *good = unpack(embed_packed, packed);
	unsigned tried = 0;

	n = embed_files[embed_count - 1].from + embed_files[embed_count - 1].n;
	LUA_CHECK(good != NULL);
	for (size_t i = 4; i < packed; i += i < 60 ? 1 : step) {
		unsigned char *copy = malloc(packed), *text;

		memcpy(copy, embed_packed, packed);
		copy[i] ^= (unsigned char)(1u << i % 8);
		text = unpack(copy, packed);
		LUA_CHECK(text == NULL || (i < 4 + 13 && memcmp(text, good, n) == 0));
		tried++;
		free(copy);
		free(text);
	}
	LUA_CHECK(tried > 100);
	for (size_t cut = 4; cut < packed; cut += cut < 60 ? 1 : step) {
		unsigned char *copy = malloc(cut);

		memcpy(copy, embed_packed, cut);
		LUA_CHECK(unpack(copy, cut) == NULL);
		free(copy);
	}
	for (size_t room = 0; room < n; room += 1 + n / 20) {       /* a text that is longer than it says */
		unsigned char *copy = malloc(packed);
		uint32_t says = (uint32_t)room;

		memcpy(copy, embed_packed, packed);
		memcpy(copy, &says, sizeof says);
		LUA_CHECK(unpack(copy, packed) == NULL);
		free(copy);
	}
	{       /* a dictionary larger than we write: no memory is taken for it */
		unsigned char *copy = malloc(packed);

		memcpy(copy, embed_packed, packed);
		memcpy(copy + 5, "\0\0\0\1", 4);
		LUA_CHECK(unpack(copy, packed) == NULL);
		free(copy);
	}
	free(good);
}

/* What no look at the clock comes between ends too, in a command. */
static void
test_watch(void)
{
	int status = 0;
	pid_t child = fork();

	if (child == 0) {
		lua_watch(1);
		for (;;)
			(void)clock_now();
	}
	LUA_CHECK(child > 0 && waitpid(child, &status, 0) == child);
	LUA_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGPROF);
	lua_watch(1);
	lua_watch(0);
	for (int64_t end = clock_read(CLOCK_PROCESS_CPUTIME_ID) + 1100; clock_read(CLOCK_PROCESS_CPUTIME_ID) < end;)
		;
	passed++;
}

int
main(void)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	if (!secret_init() || !loop_init(false))
		return 1;
	if (freopen("/dev/null", "w", stderr) == NULL)  /* what fails here is logged, thousands of times */
		return 1;
	test_tasks();
	test_wait();
	test_abandon();
	test_pool();
	test_allowance();
	test_running();
	test_worker_lacks();
	test_no_memory_in_tasks();
	test_no_memory_at_the_start();
	test_embedded();
	test_pack_damaged();
	test_watch();
	close_state();
	if (failed == 0)
		printf("ok 1 - lua: tasks, allowances, memory\n");
	printf("%d passed, %d failed\n", passed, failed);
	return failed != 0;
}
