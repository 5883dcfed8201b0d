/* Bodies that rules read as they stream: lua/reading.lua and lua/pktline.lua, held against the other readers of the same by
 * tests/fuzz/reading.lua. The first byte says what kind it is, the second in what pieces it comes. */
#include PROXY_C

static lua_State *fuzz_lua;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	if (!secret_init() || lua_open_state(false) == NULL)
		abort();
	fuzz_lua = lua_main;
	if (luaL_dostring(fuzz_lua, "check = dofile('tests/fuzz/reading.lua').check") != LUA_OK)
		abort();
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const char *const kinds[] = {"json", "form", "multipart", "pkt-line"};

	if (n < 2)
		return 0;
	lua_getglobal(fuzz_lua, "check");
	lua_pushstring(fuzz_lua, kinds[data[0] & 3]);
	lua_pushlstring(fuzz_lua, (const char *)data + 2, n - 2);
	lua_pushinteger(fuzz_lua, data[1]);
	if (lua_pcall(fuzz_lua, 3, 0, 0) != LUA_OK) {
		fprintf(stderr, "%s\n", lua_tostring(fuzz_lua, -1));
		abort();
	}
	return 0;
}
