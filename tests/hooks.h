/* What the test binaries alone can be told. proxy.c includes this. */

/* SALLYPORT_TEST_CLOCK names a file with two numbers: seconds on the wall clock, and ms since the boot. */
static int64_t
hook_clock(int which)
{
	long long off[2] = {0, 0};
	const char *file = getenv("SALLYPORT_TEST_CLOCK");
	FILE *f = file != NULL ? fopen(file, "re") : NULL;

	if (f != NULL) {
		if (fscanf(f, "%lld %lld", &off[0], &off[1]) < 1)
			off[0] = 0;
		fclose(f);
	}
	return off[which];
}

/* SALLYPORT_TEST_HOLD names a file: waits as long as it exists. */
static void
hook_hold(void)
{
	const char *hold = getenv("SALLYPORT_TEST_HOLD");

	while (hold != NULL && access(hold, F_OK) == 0)
		usleep(1000);
}

static int64_t lua_fail_after = -1;     /* allocations of Lua's until all fail; -1: never */

static bool
hook_no_memory(void)
{
	bool none = lua_fail_after == 0;

	lua_fail_after -= lua_fail_after > 0;
	return none;
}

#ifdef SALLYPORT_UNIT
static bool secret_init(void);
static lua_State *lua_open_state(bool worker);
static void lua_close_state(void);
static size_t addr_guard_n;

/* The rules of fields are Lua, and unit tests and fuzz targets read heads: they are there before main begins. */
__attribute__((constructor)) static void
hook_fields(void)
{
	if (!secret_init() || lua_open_state(false) == NULL)
		abort();
	lua_close_state();
	addr_guard_n = 0;               /* those of the guard are not */
}
#endif
