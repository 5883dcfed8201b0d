/* The store (section `store` of proxy.c): sealing, damage, faults, crashes, backup.
 * Every case makes a data directory of its own below one temporary directory. */
#include <stddef.h>
static size_t test_map = (size_t)256 << 20;     /* a case may make it small */
#define STORE_MAP_SIZE test_map
#include PROXY_C
#include <ftw.h>

static int passed, failed;
static char tmp[64];            /* the temporary directory */
static char home[128];          /* of this case */

#define CHECK(cond) check((cond), __func__, #cond, __LINE__)
static void
check(bool ok, const char *test, const char *what, int line)
{
	if (ok)
		passed++;
	else
		printf("not ok %d - %s: line %d: %s (why: %s %s)\n", ++failed + passed, test, line,
		    what, store_fault.place != NULL ? store_fault.place : "",
		    store_fault.why != NULL ? store_fault.why : "");
}

static const char *
in_home(const char *name)
{
	static char path[256];

	snprintf(path, sizeof path, "%s/%s", home, name);
	return path;
}

static void
fresh_home(void)
{
	static int n;

	store_close();
	snprintf(home, sizeof home, "%s/%d", tmp, n++);
	CHECK(mkdir(home, 0700) == 0 && mkdir(in_home("store"), 0700) == 0 && mkdir(in_home("log"), 0700) == 0);
}

/* What the Lua text answers about the data directory: true is STORE_OK, else it is a code. */
static enum store_err
lua_does(const char *dir, const char *text)
{
	static lua_State *L;
	enum store_err err = STORE_OK;
	const char *code;

	if ((L == NULL && (L = lua_open_state(false)) == NULL) || luaL_loadstring(L, text) != LUA_OK)
		return STORE_IO;
	lua_pushstring(L, dir);
	if (lua_pcall(L, 1, 2, 0) != LUA_OK) {
		printf("# %s\n", lua_tostring(L, -1));
		err = STORE_IO;
	} else if (!lua_toboolean(L, -2)) {
		code = lua_tostring(L, -1);
		for (err = STORE_ABSENT; err < STORE_IO && strcmp(store_codes[err], code) != 0;)
			err++;
	}
	lua_settop(L, 0);
	return err;
}

/* As `init`, whose folders are there; the store is open then. */
static enum store_err
store_init(const char *dir)
{
	return lua_does(dir, "local ok, code = require('cli.archive').make(...) "
	    "if ok then ok, code = require('store').open(...) end return ok, code");
}

static void
fresh(void)
{
	fresh_home();
	CHECK(store_init(home) == STORE_OK);
}

/* As `doctor --accept`; the store is open again. */
static bool
accepted(void)
{
	return lua_does(home, "return require('cli.archive').accept(...)") == STORE_OK &&
	    store_open(home, STORE_WITH_KEY) == STORE_OK;
}

static int64_t
soon(int64_t ms)
{
	return clock_read(CLOCK_MONOTONIC) + ms;
}

static int64_t
clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

static enum store_err
commit(struct store_batch *b, uint64_t *version)
{
	enum store_err err = store_commit_now(b, soon(2000));

	if (version != NULL)
		*version = b->version;
	store_batch_free(b);
	return err;
}

static enum store_err
put(enum store_db db, const char *key, const char *plain, const char *secret, uint64_t version)
{
	struct store_batch *b = store_batch_new();

	CHECK(store_batch_put(b, db, slice_of(key), slice_of(plain), version, false,
	    0) == STORE_OK);
	if (secret != NULL)
		CHECK(store_batch_secret(b, SLICE("f/key"), secret, strlen(secret)) == STORE_OK);
	return commit(b, NULL);
}

static bool
secret_is(enum store_db db, const char *key, const char *name, const char *want)
{
	struct store_record r;
	struct store_seal s;
	char out[256];
	bool ok = store_read(db, slice_of(key), &r) == STORE_OK &&
	    store_seal_find(r.seals, slice_of(name), &s) &&
	    s.text.n < sizeof out && store_unseal(db, slice_of(key), &s, out) == STORE_OK &&
	    slice_eq((struct slice){out, s.text.n}, slice_of(want));

	store_read_reset();
	return ok;
}

static bool
plain_is(enum store_db db, const char *key, const char *want)
{
	struct store_record r;
	bool ok = store_read(db, slice_of(key), &r) == STORE_OK &&
	    slice_eq(r.plain, slice_of(want));

	store_read_reset();
	return ok;
}

static enum store_err
read_err(enum store_db db, const char *key)
{
	struct store_record r;
	enum store_err err = store_read(db, slice_of(key), &r);

	store_read_reset();
	return err;
}

/* As somebody with the disk in hand would: past the store. */
static void
raw_put(enum store_db db, struct slice key, struct slice value)
{
	MDB_txn *txn;
	MDB_val k = store_val(key), v = store_val(value);

	store_read_reset();
	if (mdb_txn_begin(store.env, NULL, 0, &txn) != 0 ||
	    mdb_put(txn, store.dbi[db], &k, &v, 0) != 0 ||
	    mdb_txn_commit(txn) != 0)
		CHECK(!"raw_put");
}

static size_t
raw_get(enum store_db db, struct slice key, char out[8192])
{
	struct slice v = {NULL, 0};

	CHECK(store_read_begin() == STORE_OK);
	CHECK(store_raw_get(store.reader, db, key, &v) == STORE_OK);
	CHECK(v.n <= 8192);
	memcpy(out, v.p, v.n);
	store_read_reset();
	return v.n;
}

static void
unsynced(void)
{
	mdb_env_set_flags(store.env, MDB_NOSYNC, 1);
}

static void
file_write(const char *path, const void *p, size_t n, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0 && write(fd, p, n) == (ssize_t)n && fchmod(fd, mode) == 0);
	close(fd);
}

static size_t
file_read(const char *path, char **out)
{
	struct stat st;
	int fd = open(path, O_RDONLY);

	CHECK(fd >= 0 && fstat(fd, &st) == 0);
	*out = malloc((size_t)st.st_size + 1);
	CHECK(read(fd, *out, (size_t)st.st_size) == st.st_size);
	close(fd);
	return (size_t)st.st_size;
}

static bool
file_has(const char *path, const char *what)
{
	char *text;
	size_t n = file_read(path, &text);
	bool has = memmem(text, n, what, strlen(what)) != NULL;

	free(text);
	return has;
}

static unsigned
mode_of(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? st.st_mode & 07777 : 0;
}

/* ---- cases */

static void
init_makes_private_files_and_never_overwrites(void)
{
	char *key, *again;
	size_t n;

	fresh();
	CHECK(mode_of(in_home("key")) == 0600 && mode_of(in_home("store/data.mdb")) == 0600);
	CHECK(put(DB_BUNDLE, "default", "{}", NULL, 0) == STORE_OK);
	n = file_read(in_home("key"), &key);
	CHECK(store_init(home) == STORE_EXISTS);
	CHECK(file_read(in_home("key"), &again) == n && memcmp(key, again, n) == 0);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK &&
	    plain_is(DB_BUNDLE, "default", "{}"));
	free(key);
	free(again);
}

static void
init_goes_on_after_a_killed_one(void)
{
	char *key, *again;
	size_t n;

	fresh_home();
	CHECK(store_env_open(home) == STORE_OK);
	store_close();
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_ABSENT);
	file_write(in_home("key"), "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n", 65, 0600);
	n = file_read(in_home("key"), &key);
	CHECK(store_init(home) == STORE_OK);
	CHECK(file_read(in_home("key"), &again) == n && memcmp(key, again, n) == 0);
	free(key);
	free(again);
}

static void
kill_9_of_init_can_be_gone_on_with(void)
{
	int bad = 0;

	for (int i = 0; i < 60; i++) {
		pid_t pid;
		enum store_err err;

		fresh_home();
		if ((pid = fork()) == 0)
			_exit(secret_init() && store_init(home) == STORE_OK ? 0 : 1);
		nanosleep(&(struct timespec){.tv_nsec = 200000 + i * 60000}, NULL);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		err = store_open(home, STORE_WITH_KEY);
		if (err == STORE_ABSENT)
			err = store_init(home);
		bad += err != STORE_OK || put(DB_BUNDLE, "default", "{}", NULL, 0) != STORE_OK;
	}
	CHECK(bad == 0);
}

static void
sealing_round_trip(void)
{
	static char big[200000];
	struct store_batch *b;
	struct store_record r;
	struct store_seal s;
	char *out = malloc(sizeof big);

	fresh();
	memset(big, 'x', sizeof big);
	b = store_batch_new();
	CHECK(store_batch_put(b, DB_CREDENTIAL, SLICE("c"), SLICE("{\"a\":1}"), 0, false,
	    0) == STORE_OK);
	CHECK(store_batch_secret(b, SLICE("f/key"), "k-1", 3) == STORE_OK);
	CHECK(store_batch_secret(b, SLICE("f/empty"), "", 0) == STORE_OK);
	CHECK(store_batch_secret(b, SLICE("f/big"), big, sizeof big) == STORE_OK);
	CHECK(store_batch_secret(b, SLICE("f/big"), big, 1) == STORE_INVALID);
	CHECK(commit(b, NULL) == STORE_OK);
	CHECK(plain_is(DB_CREDENTIAL, "c", "{\"a\":1}"));
	CHECK(secret_is(DB_CREDENTIAL, "c", "f/key", "k-1") &&
	    secret_is(DB_CREDENTIAL, "c", "f/empty", ""));
	CHECK(store_read(DB_CREDENTIAL, SLICE("c"), &r) == STORE_OK && r.nseals == 3 && r.verified);
	CHECK(store_seal_find(r.seals, SLICE("f/big"), &s));
	CHECK(s.text.n == sizeof big && store_unseal(DB_CREDENTIAL, SLICE("c"), &s,
	    out) == STORE_OK);
	CHECK(memcmp(out, big, sizeof big) == 0);
	free(out);
	store_read_reset();
}

static void
bounds_are_kept(void)
{
	static char long_key[STORE_KEY_MAX + 2];
	struct store_batch *b = store_batch_new();

	fresh();
	memset(long_key, 'k', sizeof long_key - 1);
	CHECK(store_batch_op(b, OP_PUT, DB_STATE, slice_of(long_key), STORE_ANY) == STORE_INVALID);
	CHECK(store_batch_op(b, OP_DEL, DB_STATE, SLICE(""), STORE_ANY) == STORE_INVALID);
	CHECK(store_batch_op(b, OP_DEL, DB_META, STORE_K_FORMAT, STORE_ANY) == STORE_INVALID);
	CHECK(store_batch_op(b, OP_PUT, DB_STATE, SLICE("a\0b"), STORE_ANY) == STORE_INVALID);
	long_key[STORE_KEY_MAX] = '\0';
	CHECK(store_batch_put(b, DB_STATE, slice_of(long_key), SLICE("{}"), 0, false,
	    0) == STORE_OK);
	CHECK(commit(b, NULL) == STORE_OK && plain_is(DB_STATE, long_key, "{}"));
	CHECK(read_err(DB_META, "\1format") == STORE_ABSENT &&
	    read_err(DB_STATE, "") == STORE_ABSENT);
}

static void
every_flipped_byte_of_a_record_is_noticed(void)
{
	char rec[8192];
	size_t n;
	int unnoticed = 0;

	fresh();
	CHECK(put(DB_CREDENTIAL, "c", "{\"hosts\":[\"api.example.com\"]}", "canary",
	    0) == STORE_OK);
	CHECK(put(DB_CREDENTIAL, "d", "{}", "other", 0) == STORE_OK);
	unsynced();
	n = raw_get(DB_CREDENTIAL, SLICE("c"), rec);
	for (size_t i = 0; i < n; i++) {
		rec[i] ^= (char)(1 << i % 8);
		raw_put(DB_CREDENTIAL, SLICE("c"), (struct slice){rec, n});
		unnoticed += read_err(DB_CREDENTIAL, "c") != STORE_DAMAGED;
		rec[i] ^= (char)(1 << i % 8);
	}
	CHECK(unnoticed == 0);
	for (size_t i = 0; i < n; i++) {
		raw_put(DB_CREDENTIAL, SLICE("c"), (struct slice){rec, i});
		unnoticed += read_err(DB_CREDENTIAL, "c") != STORE_DAMAGED;
	}
	CHECK(unnoticed == 0);
	CHECK(secret_is(DB_CREDENTIAL, "d", "f/key", "other"));        /* the rest serves on */
	raw_put(DB_CREDENTIAL, SLICE("c"), (struct slice){rec, n});
	CHECK(secret_is(DB_CREDENTIAL, "c", "f/key", "canary"));
}

static void
records_put_in_anothers_place_are_noticed(void)
{
	char rec[8192];
	size_t n;

	fresh();
	CHECK(put(DB_CREDENTIAL, "c", "{}", "canary", 0) == STORE_OK);
	CHECK(put(DB_CREDENTIAL, "d", "{}", "other", 0) == STORE_OK);
	n = raw_get(DB_CREDENTIAL, SLICE("c"), rec);
	raw_put(DB_CREDENTIAL, SLICE("d"), (struct slice){rec, n});
	raw_put(DB_STATE, SLICE("c"), (struct slice){rec, n});
	CHECK(read_err(DB_CREDENTIAL, "d") == STORE_DAMAGED);
	CHECK(read_err(DB_STATE, "c") == STORE_DAMAGED);
	CHECK(read_err(DB_CREDENTIAL, "c") == STORE_OK);
}

/* Even with a right tag (it cannot be made without the key), where the table does not look: a sealed field opens under its name
 * only. */
static void
sealed_fields_do_not_open_under_another_name(void)
{
	struct store_batch *b;
	struct store_record r;
	struct store_seal s;
	char rec[8192], out[16];
	size_t n;
	char *at;

	fresh();
	b = store_batch_new();
	store_batch_put(b, DB_STATE, SLICE("c"), SLICE("{}"), 0, false, 0);
	store_batch_secret(b, SLICE("f/one"), "1", 1);
	store_batch_secret(b, SLICE("f/two"), "2", 1);
	CHECK(commit(b, NULL) == STORE_OK);
	n = raw_get(DB_STATE, SLICE("c"), rec);
	at = memmem(rec, n, "f/one", 5);
	memcpy(at, "f/two", 5);
	at = memmem(at + 5, n - (size_t)(at + 5 - rec), "f/two", 5);
	memcpy(at, "f/one", 5);
	store_tag(store_keys_of(store.keys), DB_STATE, SLICE("c"),
	    (struct slice){rec, n - STORE_TAG},
	    (uint8_t *)rec + n - STORE_TAG);
	raw_put(DB_STATE, SLICE("c"), (struct slice){rec, n});
	CHECK(store_read(DB_STATE, SLICE("c"), &r) == STORE_OK);
	CHECK(store_seal_find(r.seals, SLICE("f/one"), &s));
	CHECK(store_unseal(DB_STATE, SLICE("c"), &s, out) == STORE_DAMAGED && out[0] == 0);
	store_read_reset();
}

static void
a_damaged_record_can_be_replaced_or_removed_only(void)
{
	struct store_batch *b;
	uint64_t v;

	fresh();
	CHECK(put(DB_STATE, "s", "{}", "canary", 0) == STORE_OK);
	v = store.reading;
	raw_put(DB_STATE, SLICE("s"), SLICE("rubbish"));
	b = store_batch_new();
	store_batch_put(b, DB_STATE, SLICE("s"), SLICE("{}"), STORE_ANY, true, 0);
	CHECK(commit(b, &v) == STORE_DAMAGED);
	CHECK(put(DB_STATE, "s", "{}", NULL, 5) == STORE_DAMAGED);
	CHECK(put(DB_STATE, "s", "{}", NULL, 0) == STORE_CONFLICT);
	CHECK(put(DB_STATE, "s", "{\"new\":1}", NULL, STORE_ANY) == STORE_OK);
	CHECK(plain_is(DB_STATE, "s", "{\"new\":1}"));
	raw_put(DB_STATE, SLICE("s"), SLICE("rubbish"));
	b = store_batch_new();
	store_batch_op(b, OP_DEL, DB_STATE, SLICE("s"), STORE_ANY);
	CHECK(commit(b, NULL) == STORE_OK && read_err(DB_STATE, "s") == STORE_ABSENT);
}

static void
key_file_errors_are_named_and_nothing_is_written(void)
{
	static const char other[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";
	char *key, *before, *after;
	size_t kn, bn;

	fresh();
	CHECK(put(DB_CREDENTIAL, "c", "{}", "canary", 0) == STORE_OK);
	store_close();
	kn = file_read(in_home("key"), &key);
	bn = file_read(in_home("store/data.mdb"), &before);
	unlink(in_home("key"));
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_KEY_ABSENT);
	CHECK(store_init(home) == STORE_EXISTS && access(in_home("key"), F_OK) != 0);
	file_write(in_home("key"), other, sizeof other - 1, 0600);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_WRONG_KEY);
	file_write(in_home("key"), key, kn - 10, 0600);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_KEY_MODE);
	file_write(in_home("key"), key, kn, 0644);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_KEY_MODE);
	file_write(in_home("key"), key, kn, 0600);
	if (geteuid() == 0) {
		CHECK(chown(in_home("key"), 12345, 12345) == 0);
		CHECK(store_open(home, STORE_WITH_KEY) == STORE_NOT_OWNER);
		CHECK(chown(in_home("key"), 0, 0) == 0 &&
		    chown(in_home("store/data.mdb"), 12345, 12345) == 0);
		CHECK(store_open(home, STORE_WITH_KEY) == STORE_NOT_OWNER);
		CHECK(chown(in_home("store/data.mdb"), 0, 0) == 0);
	}
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK);
	store_close();
	CHECK(file_read(in_home("store/data.mdb"), &after) == bn && memcmp(before, after, bn) == 0);
	free(key);
	free(before);
	free(after);
}

static void
without_the_key_names_are_readable_and_secrets_are_not(void)
{
	struct store_batch *b;
	struct store_record r;
	struct store_seal s;
	char c, out[16];

	fresh();
	CHECK(put(DB_CREDENTIAL, "c", "{\"a\":1}", "canary", 0) == STORE_OK);
	unlink(in_home("key"));
	CHECK(store_open(home, STORE_KEYLESS) == STORE_OK);
	CHECK(store_read(DB_CREDENTIAL, SLICE("c"), &r) == STORE_OK && !r.verified &&
	    r.nseals == 1);
	CHECK(store_seal_find(r.seals, SLICE("f/key"), &s));
	CHECK(store_unseal(DB_CREDENTIAL, SLICE("c"), &s, out) == STORE_LOCKED);
	store_read_reset();
	b = store_batch_new();
	store_batch_op(b, OP_DEL, DB_CREDENTIAL, SLICE("c"), STORE_ANY);
	CHECK(commit(b, NULL) == STORE_LOCKED);
	CHECK(store_derive(SLICE("x"), &c, 1) == STORE_LOCKED);
}

static void
stores_that_are_newer_damaged_or_no_store_are_refused(void)
{
	char *file;
	size_t n;

	fresh();
	raw_put(DB_META, STORE_K_FORMAT, SLICE("\0\0\0\3"));
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_NEWER);
	fresh();
	raw_put(DB_META, STORE_K_FORMAT, SLICE("1"));
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_DAMAGED);
	fresh();
	raw_put(DB_META, STORE_K_DATAKEY, SLICE("1"));
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_DAMAGED);
	fresh();
	for (int i = 0; i < 100; i++)
		put(DB_CREDENTIAL, i % 2 ? "x" : "y", "{}", NULL, STORE_ANY);
	{
		static char big[STORE_PLAIN_MAX];

		memset(big, 'x', sizeof big - 1);
		CHECK(put(DB_POLICY, "p", big, NULL, STORE_ANY) == STORE_OK);
	}
	store_close();
	n = file_read(in_home("store/data.mdb"), &file);
	CHECK(truncate(in_home("store/data.mdb"), 3 * 4096) == 0);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_DAMAGED);
	memset(file, 'x', 8192);
	file_write(in_home("store/data.mdb"), file, n, 0600);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_DAMAGED);
	CHECK(store_init(home) != STORE_OK);
	free(file);
	CHECK(store_open("/nonexistent/home", STORE_WITH_KEY) == STORE_ABSENT);
}

static void
every_flipped_byte_of_the_data_key_is_noticed(void)
{
	char blob[8192], saved[DATAKEY_LEN];
	size_t n;
	int unnoticed = 0;

	fresh();
	n = raw_get(DB_META, STORE_K_DATAKEY, blob);
	CHECK(n == DATAKEY_LEN);
	memcpy(saved, blob, DATAKEY_LEN);
	for (size_t i = 0; i < n; i++) {
		enum store_err err;

		blob[i] ^= 1;
		raw_put(DB_META, STORE_K_DATAKEY, (struct slice){blob, n});
		err = store_open(home, STORE_WITH_KEY);
		unnoticed += err != STORE_DAMAGED && err != STORE_WRONG_KEY && err != STORE_NEWER;
		CHECK(err != STORE_NEWER || strstr(store_fault.why, "newer") != NULL);
		blob[i] ^= 1;
		CHECK(store_open(home, STORE_KEYLESS) == STORE_OK || err == STORE_DAMAGED ||
		    err == STORE_NEWER);
		if (store.env == NULL) {
			CHECK(store_env_open(home) == STORE_OK &&
			    store_dbis_open() == STORE_OK);
		}
	}
	CHECK(unnoticed == 0);
	raw_put(DB_META, STORE_K_DATAKEY, (struct slice){saved, n});
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK);
}

static void
preconditions_make_conflicts(void)
{
	struct store_batch *b;
	uint64_t v1 = 0, v2 = 0;

	fresh();
	b = store_batch_new();
	store_batch_put(b, DB_STATE, SLICE("s"), SLICE("{}"), 0, false, 0);
	CHECK(commit(b, &v1) == STORE_OK);
	CHECK(put(DB_STATE, "s", "{}", NULL, 0) == STORE_CONFLICT);
	CHECK(put(DB_STATE, "s", "{}", NULL, v1 + 1) == STORE_CONFLICT);
	CHECK(put(DB_STATE, "t", "{}", NULL, v1) == STORE_CONFLICT);
	b = store_batch_new();
	store_batch_put(b, DB_STATE, SLICE("s"), SLICE("{\"n\":2}"), v1, false, 0);
	CHECK(commit(b, &v2) == STORE_OK && v2 > v1);
	b = store_batch_new();          /* all or nothing */
	store_batch_put(b, DB_STATE, SLICE("other"), SLICE("{}"), 0, false, 0);
	store_batch_op(b, OP_CHECK, DB_STATE, SLICE("s"), v1);
	CHECK(commit(b, NULL) == STORE_CONFLICT && read_err(DB_STATE, "other") == STORE_ABSENT);
	b = store_batch_new();
	store_batch_put(b, DB_STATE, SLICE("other"), SLICE("{}"), 0, false, 0);
	store_batch_op(b, OP_CHECK, DB_STATE, SLICE("s"), v2);
	store_batch_op(b, OP_CHECK, DB_STATE, SLICE("none"), 0);
	CHECK(commit(b, NULL) == STORE_OK && read_err(DB_STATE, "other") == STORE_OK);
	b = store_batch_new();
	store_batch_op(b, OP_DEL, DB_STATE, SLICE("s"), v1);
	CHECK(commit(b, NULL) == STORE_CONFLICT);
	b = store_batch_new();
	store_batch_op(b, OP_DEL, DB_STATE, SLICE("s"), v2);
	store_batch_op(b, OP_DEL, DB_STATE, SLICE("never"), STORE_ANY);
	CHECK(commit(b, NULL) == STORE_OK && read_err(DB_STATE, "s") == STORE_ABSENT);
}

static void
keep_keeps_replaces_and_drops_secrets(void)
{
	struct store_batch *b;
	struct store_record r;

	fresh();
	b = store_batch_new();
	store_batch_put(b, DB_CREDENTIAL, SLICE("c"), SLICE("{}"), 0, false, 0);
	store_batch_secret(b, SLICE("a"), "1", 1);
	store_batch_secret(b, SLICE("b"), "2", 1);
	store_batch_secret(b, SLICE("c"), "3", 1);
	CHECK(commit(b, NULL) == STORE_OK);
	b = store_batch_new();
	store_batch_put(b, DB_CREDENTIAL, SLICE("c"), SLICE("{\"n\":2}"), STORE_ANY, true, 0);
	store_batch_secret(b, SLICE("b"), "new", 3);
	CHECK(store_batch_drop(b, SLICE("c")) == STORE_OK);
	CHECK(commit(b, NULL) == STORE_OK);
	CHECK(secret_is(DB_CREDENTIAL, "c", "a", "1") && secret_is(DB_CREDENTIAL, "c", "b", "new"));
	CHECK(store_read(DB_CREDENTIAL, SLICE("c"), &r) == STORE_OK && r.nseals == 2);
	store_read_reset();
	CHECK(put(DB_CREDENTIAL, "c", "{}", NULL, STORE_ANY) == STORE_OK);
	CHECK(store_read(DB_CREDENTIAL, SLICE("c"), &r) == STORE_OK && r.nseals == 0);
	store_read_reset();
}

/* Are the changes since that config generation known? */
static bool
follows(uint64_t since)
{
	bool known = false;

	store_read_reset();
	CHECK(store_follow(since, &known) == STORE_OK);
	return known;
}

static bool
news_has(const char *kind, const char *key)
{
	struct slice rest = buf_slice(&store_seen.news);

	while (rest.n >= 3) {
		size_t n = load_be16(rest.p + 1);

		if (rest.p[0] == *kind && slice_eq((struct slice){rest.p + 3, n}, slice_of(key)))
			return true;
		rest = (struct slice){rest.p + 3 + n, rest.n - 3 - n};
	}
	return false;
}

static void
generations_move_and_changes_are_listed(void)
{
	uint64_t c0 = 0, s0 = 0, c = 0, s = 0;
	struct store_batch *b;

	fresh();
	CHECK(store_generations(&c0, &s0));
	store_read_reset();
	CHECK(put(DB_LEASE, "l", "{}", NULL, STORE_ANY) == STORE_OK && store_generations(&c, &s));
	CHECK(c == c0 && s == s0);
	store_read_reset();
	CHECK(put(DB_STATE, "s", "{}", NULL, STORE_ANY) == STORE_OK && store_generations(&c, &s));
	CHECK(c == c0 && s == s0 + 1);
	store_read_reset();
	b = store_batch_new();
	store_batch_put(b, DB_CREDENTIAL, SLICE("c"), SLICE("{}"), STORE_ANY, false, 0);
	store_batch_put(b, DB_STATE, SLICE("c"), SLICE("{}"), STORE_ANY, false, 0);
	store_batch_put(b, DB_META, SLICE("set/echo"), SLICE("{}"), STORE_ANY, false, 0);
	CHECK(commit(b, NULL) == STORE_OK && store_generations(&c, &s) && c == c0 + 1 &&
	    s == s0 + 2);
	CHECK(!follows(c0));            /* the first look tells nothing: nobody knows since when */
	CHECK(follows(c) && store_seen.news.n == 0);
	put(DB_CREDENTIAL, "c", "{}", NULL, STORE_ANY);
	put(DB_CREDENTIAL, "c", "{}", NULL, STORE_ANY);
	put(DB_STATE, "t", "{}", NULL, STORE_ANY);
	put(DB_BUNDLE, "made", "{}", NULL, STORE_ANY);
	b = store_batch_new();
	store_batch_op(b, OP_DEL, DB_META, SLICE("set/echo"), STORE_ANY);
	CHECK(commit(b, NULL) == STORE_OK);
	CHECK(!follows(c - 1));         /* not what the last look answered */
	buf_clear(&store_seen.news);
	CHECK(follows(c + 4));
	put(DB_CREDENTIAL, "c", "{}", NULL, STORE_ANY);
	put(DB_BUNDLE, "made", "{}", NULL, STORE_ANY);
	b = store_batch_new();
	store_batch_op(b, OP_DEL, DB_BUNDLE, SLICE("made"), STORE_ANY);
	store_batch_put(b, DB_META, SLICE("set/new"), SLICE("{}"), STORE_ANY, false, 0);
	CHECK(commit(b, NULL) == STORE_OK);
	CHECK(follows(c + 4));
	CHECK(news_has("c", "c") && news_has("b", "made") && news_has("m", "set/new") &&
	    !news_has("s", "t") && !news_has("m", "set/echo"));
	buf_clear(&store_seen.news);
	unsynced();
	for (int n = 0; n < 3; n++) {   /* too many to keep: rebuild */
		b = store_batch_new();
		for (int i = 0; i < 8000; i++) {
			char key[64];

			snprintf(key, sizeof key, "agent-of-a-name-that-is-rather-long-%05d", n * 8000 + i);
			store_batch_put(b, DB_AGENT, slice_of(key), SLICE("{}"), STORE_ANY, false, 0);
		}
		CHECK(commit(b, NULL) == STORE_OK);
	}
	CHECK(!follows(c + 7));
	store_read_reset();
}

static void
listing_walks_by_prefix(void)
{
	struct slice key, after = {NULL, 0};
	struct store_record r;
	char last[64];
	int n = 0;

	fresh();
	put(DB_BUNDLE, "a", "{}", NULL, 0);
	put(DB_BUNDLE, "b/1", "{}", NULL, 0);
	put(DB_BUNDLE, "b/2", "{}", NULL, 0);
	put(DB_BUNDLE, "c", "{}", NULL, 0);
	raw_put(DB_BUNDLE, SLICE("b/2"), SLICE("rubbish"));
	CHECK(store_read_next(DB_BUNDLE, SLICE("b/"), after, &key, &r) == STORE_OK &&
	    slice_eq(key, SLICE("b/1")));
	CHECK(store_read_next(DB_BUNDLE, SLICE("b/"), SLICE("b/1"), &key, &r) == STORE_DAMAGED &&
	    slice_eq(key, SLICE("b/2")));
	CHECK(store_read_next(DB_BUNDLE, SLICE("b/"), SLICE("b/2"), &key, &r) == STORE_ABSENT);
	while (store_read_next(DB_BUNDLE, SLICE(""), after, &key, &r) != STORE_ABSENT && n < 9) {
		memcpy(last, key.p, key.n);
		after = (struct slice){last, key.n};
		n++;
		store_read_reset();
	}
	CHECK(n == 4);
	CHECK(store_read_next(DB_META, SLICE(""), SLICE(""), &key, &r) == STORE_ABSENT);
	store_read_reset();
}

/* A disk without a free block, made by a limit on the size of files. Answers in the child's
 * status. */
static int
full_disk_child(void)
{
	struct stat st;
	struct rlimit lim;
	struct store_batch *b;
	static char text[3000];
	int n = 0, bad = 0;

	signal(SIGXFSZ, SIG_IGN);
	if (store_open(home, STORE_WITH_KEY) != STORE_OK ||
	    stat(in_home("store/data.mdb"), &st) != 0)
		return 100;
	lim.rlim_cur = lim.rlim_max = (rlim_t)st.st_size;
	setrlimit(RLIMIT_FSIZE, &lim);
	memset(text, 'x', sizeof text - 1);
	while (put(DB_BUNDLE, "fill", text, NULL, STORE_ANY) == STORE_OK) {
		char key[32];

		snprintf(key, sizeof key, "fill%d", n);
		if (n++ > 1000 || put(DB_BUNDLE, key, text, NULL, STORE_ANY) != STORE_OK)
			break;
	}
	bad += n > 1000;
	while (n++ < 1000 && put(DB_LEASE, "x", "{}", NULL, STORE_ANY) == STORE_OK) {
		char key[32];

		snprintf(key, sizeof key, "small%d", n);
		put(DB_STATE, key, "{}", NULL, STORE_ANY);
	}
	bad += put(DB_STATE, "new", "{}", NULL, STORE_ANY) != STORE_FULL;
	b = store_batch_new();          /* what was promised room is written all the same */
	store_batch_put(b, DB_STATE, SLICE("tok"), (struct slice){text, 2900}, STORE_ANY, false, 0);
	bad += 2 * (commit(b, NULL) != STORE_OK);
	b = store_batch_new();
	store_batch_op(b, OP_DEL, DB_STATE, SLICE("tok"), STORE_ANY);
	bad += 8 * (commit(b, NULL) != STORE_OK);
	bad += 16 * (read_err(DB_STATE, "new") != STORE_ABSENT);
	store_close();
	return bad;
}

static void
a_full_disk_is_named_and_promised_room_is_there(void)
{
	struct store_batch *b;
	int status = -1;
	pid_t pid;

	fresh();
	b = store_batch_new();
	store_batch_put(b, DB_STATE, SLICE("tok"), SLICE("{\"intent\":1}"), 0, false, 3000);
	CHECK(commit(b, NULL) == STORE_OK);
	store_close();
	if ((pid = fork()) == 0)
		_exit(secret_init() ? full_disk_child() : 99);
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	if (WEXITSTATUS(status) != 0)
		printf("# full_disk_child: %d\n", WEXITSTATUS(status));
	CHECK(WEXITSTATUS(status) == 0);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK);
	CHECK(put(DB_STATE, "new", "{}", NULL, STORE_ANY) == STORE_OK);
}

static void
a_full_map_is_named_and_room_is_counted(void)
{
	static char text[3000];
	struct store_counters c;
	struct store_batch *b;
	int n = 0;

	test_map = 2 << 20;
	fresh();
	unsynced();
	memset(text, 'x', sizeof text - 1);
	b = store_batch_new();
	store_batch_put(b, DB_STATE, SLICE("tok"), SLICE("{}"), 0, false, 3000);
	CHECK(commit(b, NULL) == STORE_OK);
	for (enum store_err err = STORE_OK; err == STORE_OK && n < 2000; n++) {
		char key[32];

		snprintf(key, sizeof key, "fill%d", n);
		err = put(DB_BUNDLE, key, text, NULL, STORE_ANY);
		CHECK(err == STORE_OK || err == STORE_FULL);
	}
	CHECK(n > 100 && n < 2000);
	b = store_batch_new();
	store_batch_put(b, DB_STATE, SLICE("tok"), (struct slice){text, 2900}, STORE_ANY, false, 0);
	CHECK(commit(b, NULL) == STORE_OK);
	CHECK(store_read_begin() == STORE_OK && store_counters_get(store.reader,
	    &c) == STORE_OK && c.room == 0);
	store_read_reset();
	b = store_batch_new();          /* removing makes room again */
	for (int i = 0; i < n; i++) {
		char key[32];

		snprintf(key, sizeof key, "fill%d", i);
		store_batch_op(b, OP_DEL, DB_BUNDLE, slice_of(key), STORE_ANY);
	}
	CHECK(commit(b, NULL) == STORE_OK);
	CHECK(put(DB_LEASE, "x", "{}", NULL, STORE_ANY) == STORE_OK);
	CHECK(put(DB_LEASE, "x", "{}", NULL, STORE_ANY) == STORE_OK);
	for (int i = 0; i < n / 2; i++) {
		char key[32];

		snprintf(key, sizeof key, "fill%d", i);
		CHECK(put(DB_BUNDLE, key, text, NULL, STORE_ANY) == STORE_OK);
	}
	store_close();
	test_map = (size_t)256 << 20;
}

/* Writes the same number into three records, for ever. */
static void
crash_child(void)
{
	if (!secret_init() || store_open(home, STORE_WITH_KEY) != STORE_OK)
		_exit(3);
	for (unsigned i = 0;; i++) {
		struct store_batch *b = store_batch_new();
		char plain[32];

		snprintf(plain, sizeof plain, "{\"n\":%u%u}", (unsigned)getpid(), i);
		store_batch_put(b, DB_STATE, SLICE("a"), slice_of(plain), STORE_ANY, false, 100);
		store_batch_secret(b, SLICE("t"), plain, strlen(plain));
		store_batch_put(b, DB_STATE, SLICE("b"), slice_of(plain), STORE_ANY, false, 0);
		store_batch_put(b, DB_CREDENTIAL, SLICE("c"), slice_of(plain), STORE_ANY, false, 0);
		if (commit(b, NULL) != STORE_OK)
			_exit(4);
	}
}

static void
kill_9_of_a_writer_leaves_old_or_new_whole(void)
{
	int torn = 0, odd = 0, moved = 0;
	char last[64] = "";

	fresh();
	put(DB_STATE, "a", "{}", "{}", 0);
	for (int i = 0; i < 200 || (moved <= 20 && i < 4000); i++) {     /* a busy machine gives a child no time */
		int status;
		pid_t pid;
		struct store_record r;
		char plain[64];

		store_close();
		if ((pid = fork()) == 0)
			crash_child();
		nanosleep(&(struct timespec){.tv_nsec = 2000000 + (i * 7919 % 100) * 100000}, NULL);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		odd += !WIFSIGNALED(status);
		if (store_open(home, STORE_WITH_KEY) != STORE_OK) {
			CHECK(!"opens after kill -9");
			return;
		}
		if (store_read(DB_STATE, SLICE("a"), &r) != STORE_OK || r.plain.n >= sizeof plain) {
			torn++;
			continue;
		}
		memcpy(plain, r.plain.p, r.plain.n);
		plain[r.plain.n] = '\0';
		store_read_reset();
		moved += strcmp(plain, last) != 0;
		memcpy(last, plain, strlen(plain) + 1);   /* both have the same room */
		if (strcmp(plain, "{}") != 0)
			torn += !plain_is(DB_STATE, "b", plain) ||
			    !plain_is(DB_CREDENTIAL, "c", plain) ||
			    !secret_is(DB_STATE, "a", "t", plain);
		odd += put(DB_LEASE, "l", "{}", NULL, STORE_ANY) != STORE_OK;
	}
	CHECK(torn == 0);
	CHECK(odd == 0);
	CHECK(moved > 20);
}

static void
counting_child(void)
{
	if (!secret_init() || store_open(home, STORE_WITH_KEY) != STORE_OK)
		_exit(3);
	for (int i = 0; i < 50;) {
		struct store_batch *b = store_batch_new();
		struct store_record r;
		char plain[32];
		enum store_err err;

		if (store_read(DB_STATE, SLICE("n"), &r) != STORE_OK)
			_exit(4);
		snprintf(plain, sizeof plain, "%.*s", (int)r.plain.n, r.plain.p);
		snprintf(plain, sizeof plain, "%d", atoi(plain) + 1);
		store_batch_put(b, DB_STATE, SLICE("n"), slice_of(plain), r.version, false, 0);
		store_read_reset();
		err = commit(b, NULL);
		if (err != STORE_OK && err != STORE_CONFLICT)
			_exit(5);
		i += err == STORE_OK;
	}
	_exit(0);
}

static void
writers_in_several_processes_lose_nothing(void)
{
	pid_t pid[4];
	int status;

	fresh();
	put(DB_STATE, "n", "0", NULL, 0);
	store_close();
	for (int i = 0; i < 4; i++)
		if ((pid[i] = fork()) == 0)
			counting_child();
	for (int i = 0; i < 4; i++)
		CHECK(waitpid(pid[i], &status, 0) == pid[i] && WIFEXITED(status) &&
		    WEXITSTATUS(status) == 0);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK && plain_is(DB_STATE, "n", "200"));
}

/* Takes the writers' lock, inside LMDB too if asked, tells so, and stops as by kill -STOP. */
static pid_t
stopped_writer(bool in_txn)
{
	int fds[2];
	char c;
	pid_t pid;

	CHECK(pipe(fds) == 0);
	store_close();
	if ((pid = fork()) == 0) {
		MDB_txn *txn;

		if (!secret_init() || store_open(home, STORE_WITH_KEY) != STORE_OK ||
		    flock(store.lock_fd, LOCK_EX | LOCK_NB) != 0 ||
		    (in_txn && mdb_txn_begin(store.env, NULL, 0, &txn) != 0))
			_exit(3);
		if (write(fds[1], "x", 1) != 1)
			_exit(4);
		raise(SIGSTOP);
		_exit(0);
	}
	CHECK(read(fds[0], &c, 1) == 1);
	CHECK(waitpid(pid, NULL, WUNTRACED) == pid);
	close(fds[0]);
	close(fds[1]);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK);      /* opens all the same */
	return pid;
}

static void
end_writer(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static struct wait commit_wait;
static struct store_commit *commit_last;

/* How the last commit ended. */
static enum store_err
commit_end(void)
{
	enum store_err err;

	loop_run(&commit_wait.done);
	err = commit_last->err;
	store_commit_free(commit_last);
	return err;
}

static void
stop_loop(struct timer *t)
{
	(void)t;
	commit_wait.done = true;
}

static struct store_commit *
commit_async(const char *key, int64_t ms)
{
	struct store_batch *b = store_batch_new();

	commit_wait.done = false;
	store_batch_put(b, DB_STATE, slice_of(key), SLICE("{}"), STORE_ANY, false, 0);
	return commit_last = store_commit_start(b, soon(ms), &commit_wait);
}

static void
a_stopped_writer_meets_deadlines(void)
{
	int64_t began;
	struct store_commit *c;
	struct timer wait = {0};
	pid_t pid;

	fresh();
	pid = stopped_writer(true);
	CHECK(read_err(DB_STATE, "x") == STORE_ABSENT);         /* reads go on */
	began = clock_read(CLOCK_MONOTONIC);
	{
		struct store_batch *b = store_batch_new();

		store_batch_put(b, DB_STATE, SLICE("now"), SLICE("{}"), STORE_ANY, false, 0);
		CHECK(store_commit_now(b, soon(50)) == STORE_TIMEOUT);
		store_batch_free(b);
	}
	CHECK(clock_read(CLOCK_MONOTONIC) - began < 1000);
	commit_async("late", 50);
	CHECK(commit_end() == STORE_TIMEOUT);
	c = commit_async("cancelled", 60000);
	c->wait = NULL;                                         /* nobody waits: it frees itself */
	CHECK(store_commit_cancel(c));
	commit_async("lasting", 60000);
	timer_set(&wait, clock_read(CLOCK_MONOTONIC) + 50, stop_loop);
	loop_run(&commit_wait.done);
	end_writer(pid);                                        /* LMDB mends what it held */
	commit_wait.done = false;
	CHECK(commit_end() == STORE_OK);
	commit_async("after", 5000);
	CHECK(commit_end() == STORE_OK);
	CHECK(read_err(DB_STATE, "lasting") == STORE_OK && read_err(DB_STATE, "after") == STORE_OK);
	CHECK(read_err(DB_STATE, "late") == STORE_ABSENT &&
	    read_err(DB_STATE, "cancelled") == STORE_ABSENT &&
	    read_err(DB_STATE, "now") == STORE_ABSENT);
	CHECK(store.inflight == 0);
}

static void
an_environment_that_failed_is_opened_again(void)
{
	fresh();
	CHECK(put(DB_STATE, "s", "{}", "canary", 0) == STORE_OK);
	store.failed = true;
	CHECK(secret_is(DB_STATE, "s", "f/key", "canary") && !store.failed);
	store.failed = true;
	store.reopen_at = 0;
	CHECK(put(DB_STATE, "s", "{}", "again", STORE_ANY) == STORE_OK && !store.failed);
	CHECK(secret_is(DB_STATE, "s", "f/key", "again"));
}

static void
dead_readers_are_cleared(void)
{
	pid_t pid;
	int dead = 0;

	fresh();
	store_close();
	if ((pid = fork()) == 0) {
		if (!secret_init() || store_open(home, STORE_WITH_KEY) != STORE_OK)
			_exit(3);
		store_read_begin();
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK);
	CHECK(mdb_reader_check(store.env, &dead) == 0 && mdb_reader_check(store.env, &dead) == 0 && dead == 0);
}

static void
derived_strings_are_stable_and_apart(void)
{
	char a[100], b[100], c[100];

	fresh();
	CHECK(store_derive(SLICE("agent a"), a, sizeof a) == STORE_OK);
	CHECK(store_derive(SLICE("agent a"), b, sizeof b) == STORE_OK);
	CHECK(store_derive(SLICE("agent b"), c, sizeof c) == STORE_OK);
	CHECK(memcmp(a, b, sizeof a) == 0 && memcmp(a, c, sizeof a) != 0);
	for (size_t i = 0; i < sizeof a; i++)
		CHECK(isalnum((unsigned char)a[i]));
}

/* ---- the table: what somebody does who writes to the disk and has no key */

static void
raw_del(enum store_db db, struct slice key)
{
	MDB_txn *txn;
	MDB_val k = store_val(key);

	store_read_reset();
	if (mdb_txn_begin(store.env, NULL, 0, &txn) != 0 ||
	    mdb_del(txn, store.dbi[db], &k, NULL) != 0 || mdb_txn_commit(txn) != 0)
		CHECK(!"raw_del");
}

static enum store_err
del(enum store_db db, const char *key)
{
	struct store_batch *b = store_batch_new();

	CHECK(store_batch_op(b, OP_DEL, db, slice_of(key), STORE_ANY) == STORE_OK);
	return commit(b, NULL);
}

/* What lies under a key, to be put back later. */
struct entry {
	struct slice key;
	char name[16], bytes[8192];
	size_t n;               /* 0: nothing lay there */
};

static void
keep(struct entry *k, enum store_db db, struct slice key)
{
	struct slice v;

	memcpy(k->name, key.p, key.n);
	k->key = (struct slice){k->name, key.n};
	CHECK(store_read_begin() == STORE_OK);
	k->n = store_raw_get(store.reader, db, key, &v) == STORE_OK ? v.n : 0;
	CHECK(k->n <= sizeof k->bytes);
	if (k->n != 0)
		memcpy(k->bytes, v.p, k->n);
	store_read_reset();
}

/* A store whose root is wrong is not open: the disk is there all the same. */
static void
open_raw(void)
{
	if (store.env == NULL)
		CHECK(store_env_open(home) == STORE_OK && store_dbis_open() == STORE_OK);
}

static void
put_back(const struct entry *k, enum store_db db)
{
	open_raw();
	raw_put(db, k->key, (struct slice){k->bytes, k->n});
}

static unsigned
bucket_of(enum store_db db, const char *key)
{
	uint8_t out[3 + STORE_KEY_MAX];
	struct slice name;

	return table_name(out, store_dbs[db].kind, slice_of(key), &name);
}

/* The table's way to a record: bucket, group, root. */
static void
keep_way(struct entry way[3], enum store_db db, const char *key)
{
	unsigned i = bucket_of(db, key);
	uint8_t at[16];

	keep(&way[0], DB_META, table_key(at, 'b', i));
	keep(&way[1], DB_META, table_key(at, 'g', i / TABLE_FAN));
	keep(&way[2], DB_META, table_key(at, 'r', 0));
}

static enum store_err
reopened(enum store_db db, const char *key)
{
	enum store_err err = store_open(home, STORE_WITH_KEY);

	return err != STORE_OK ? err : read_err(db, key);
}

static void
an_older_record_put_back_is_refused(void)
{
	fresh();
	unsynced();
	for (int db = 0; db < STORE_DBS; db++) {
		bool listed = store_dbs[db].kind != 0;
		struct entry first, second, none;

		keep(&none, (enum store_db)db, SLICE("x"));
		CHECK(none.n == 0);
		CHECK(put((enum store_db)db, "x", "{\"wide\":1}", "one", 0) == STORE_OK);
		CHECK(put((enum store_db)db, "other", "{}", NULL, 0) == STORE_OK);
		keep(&first, (enum store_db)db, SLICE("x"));
		CHECK(put((enum store_db)db, "x", "{\"narrow\":1}", "two", STORE_ANY) == STORE_OK);
		keep(&second, (enum store_db)db, SLICE("x"));
		put_back(&first, (enum store_db)db);
		CHECK(read_err((enum store_db)db, "x") == (listed ? STORE_DAMAGED : STORE_OK));
		CHECK(reopened((enum store_db)db, "x") == (listed ? STORE_DAMAGED : STORE_OK));
		CHECK(read_err((enum store_db)db, "other") == STORE_OK);
		if (!listed)
			continue;
		CHECK(put((enum store_db)db, "x", "{}", NULL, load_be64(first.bytes + 4)) == STORE_DAMAGED);
		put_back(&second, (enum store_db)db);   /* the right one again */
		CHECK(read_err((enum store_db)db, "x") == STORE_OK);
		CHECK(del((enum store_db)db, "x") == STORE_OK);
		CHECK(read_err((enum store_db)db, "x") == STORE_ABSENT);
		put_back(&second, (enum store_db)db);   /* removed, and put back */
		CHECK(read_err((enum store_db)db, "x") == STORE_DAMAGED);
		CHECK(reopened((enum store_db)db, "x") == STORE_DAMAGED);
		CHECK(put((enum store_db)db, "x", "{\"new\":1}", NULL, STORE_ANY) == STORE_OK);
		CHECK(plain_is((enum store_db)db, "x", "{\"new\":1}"));
	}
}

static void
a_record_that_is_gone_is_no_absent_one(void)
{
	fresh();
	CHECK(put(DB_BUNDLE, "b", "{}", NULL, 0) == STORE_OK);
	raw_del(DB_BUNDLE, SLICE("b"));
	CHECK(read_err(DB_BUNDLE, "b") == STORE_DAMAGED && reopened(DB_BUNDLE, "b") == STORE_DAMAGED);
	CHECK(put(DB_BUNDLE, "b", "{}", NULL, 0) == STORE_CONFLICT);
	CHECK(del(DB_BUNDLE, "b") == STORE_OK && read_err(DB_BUNDLE, "b") == STORE_ABSENT);
	CHECK(put(DB_BUNDLE, "b", "{}", NULL, 0) == STORE_OK && read_err(DB_BUNDLE, "b") == STORE_OK);
}

/* Each node of the way alone, and all but the root, beside the record. */
static void
older_nodes_of_the_table_put_back_with_a_record_are_refused(void)
{
	struct entry rec, way[3], now[3], live;

	fresh();
	unsynced();
	CHECK(put(DB_AGENT, "a/temp", "{\"revoked\":false}", NULL, 0) == STORE_OK);
	keep(&rec, DB_AGENT, SLICE("a/temp"));
	keep_way(way, DB_AGENT, "a/temp");
	CHECK(put(DB_AGENT, "a/temp", "{\"revoked\":true}", NULL, STORE_ANY) == STORE_OK);
	keep(&live, DB_AGENT, SLICE("a/temp"));
	keep_way(now, DB_AGENT, "a/temp");
	for (unsigned set = 0; set < 8; set++) {
		for (unsigned i = 0; i < 3; i++)
			put_back(set >> i & 1 ? &way[i] : &now[i], DB_META);
		put_back(&rec, DB_AGENT);
		/* all of them is a whole older store, which nothing on the disk tells from a newer */
		CHECK(reopened(DB_AGENT, "a/temp") == (set == 7 ? STORE_OK : STORE_DAMAGED));
		put_back(&live, DB_AGENT);
	}
}

static void
buckets_that_change_places_are_refused(void)
{
	char one[32], two[32] = "";
	struct entry a[3], b[3], swapped;

	fresh();
	unsynced();
	snprintf(one, sizeof one, "a/0");
	for (int i = 1; two[0] == '\0'; i++) {
		char name[32];

		snprintf(name, sizeof name, "a/%d", i);
		if (bucket_of(DB_AGENT, name) != bucket_of(DB_AGENT, one))
			memcpy(two, name, sizeof two);
	}
	put(DB_AGENT, one, "{}", NULL, 0);
	put(DB_AGENT, two, "{}", NULL, 0);
	keep_way(a, DB_AGENT, one);
	keep_way(b, DB_AGENT, two);
	swapped = a[0];
	swapped.key = b[0].key;
	put_back(&swapped, DB_META);
	swapped = b[0];
	swapped.key = a[0].key;
	put_back(&swapped, DB_META);
	CHECK(reopened(DB_AGENT, one) == STORE_DAMAGED && read_err(DB_AGENT, two) == STORE_DAMAGED);
	put_back(&a[0], DB_META);
	CHECK(reopened(DB_AGENT, one) == STORE_OK && read_err(DB_AGENT, two) == STORE_DAMAGED);
}

static void
every_flipped_byte_of_the_table_is_noticed(void)
{
	struct entry way[3], bad;
	int unnoticed = 0;

	fresh();
	unsynced();
	CHECK(put(DB_POLICY, "match", "{}", NULL, 0) == STORE_OK);
	CHECK(put(DB_BUNDLE, "rest", "{}", NULL, 0) == STORE_OK);
	keep_way(way, DB_POLICY, "match");
	for (int level = 0; level < 3; level++)
		for (size_t i = 0; i <= way[level].n; i++) {
			bad = way[level];
			if (i == bad.n)
				bad.n /= 2;
			else
				bad.bytes[i] ^= (char)(1 << i % 8);
			put_back(&bad, DB_META);
			unnoticed += reopened(DB_POLICY, "match") != STORE_DAMAGED;
			if (level == 0)
				unnoticed += read_err(DB_BUNDLE, "rest") != STORE_OK;
			put_back(&way[level], DB_META);
		}
	CHECK(unnoticed == 0);
	CHECK(reopened(DB_POLICY, "match") == STORE_OK);
}

static void
a_bucket_that_began_anew_never_says_absent(void)
{
	struct entry way[3];
	char near[64] = "";

	fresh();
	unsynced();
	CHECK(put(DB_POLICY, "match", "{}", NULL, 0) == STORE_OK);
	for (int i = 0; near[0] == '\0'; i++) {
		char name[64];

		snprintf(name, sizeof name, "t/%d", i);
		if (bucket_of(DB_AGENT, name) == bucket_of(DB_POLICY, "match"))
			memcpy(near, name, sizeof near);
	}
	keep_way(way, DB_POLICY, "match");
	way[0].bytes[5] ^= 1;
	put_back(&way[0], DB_META);
	raw_del(DB_POLICY, SLICE("match"));
	CHECK(reopened(DB_POLICY, "match") == STORE_DAMAGED && read_err(DB_AGENT, near) == STORE_DAMAGED);
	CHECK(put(DB_AGENT, near, "{}", NULL, 0) == STORE_OK);          /* a token, of somebody who knows nothing of it */
	CHECK(read_err(DB_AGENT, near) == STORE_OK);
	CHECK(read_err(DB_POLICY, "match") == STORE_DAMAGED);           /* and not the built-in one */
	CHECK(reopened(DB_POLICY, "match") == STORE_DAMAGED);
	CHECK(accepted());
	CHECK(read_err(DB_POLICY, "match") == STORE_ABSENT && read_err(DB_AGENT, near) == STORE_OK);
}

static void
a_running_server_notices_a_whole_older_store(void)
{
	static _Atomic uint64_t newest;
	struct entry rec, way[3];
	uint64_t c, s;

	fresh();
	unsynced();
	table_newest = &newest;
	newest = 0;
	CHECK(put(DB_AGENT, "a/temp", "{\"revoked\":false}", NULL, 0) == STORE_OK);
	keep(&rec, DB_AGENT, SLICE("a/temp"));
	keep_way(way, DB_AGENT, "a/temp");
	CHECK(put(DB_AGENT, "a/temp", "{\"revoked\":true}", NULL, STORE_ANY) == STORE_OK);
	CHECK(store_generations(&c, &s) && newest == c);
	store_read_reset();
	put_back(&rec, DB_AGENT);
	for (int i = 0; i < 3; i++)
		put_back(&way[i], DB_META);
	CHECK(read_err(DB_AGENT, "a/temp") == STORE_DAMAGED && !store_generations(&c, &s));
	CHECK(put(DB_BUNDLE, "b", "{}", NULL, 0) == STORE_DAMAGED);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_DAMAGED);       /* a worker that is started anew */
	newest = 0;
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK);
	table_newest = NULL;
}

/* Two histories that part after one generation, each as long as the other. */
static void
a_running_server_notices_another_store_of_its_generation(void)
{
	static _Atomic uint64_t newest;
	static const char *const plain[] = {"{}", "{\"n\":1}", "{\"n\":2}"};
	struct entry rec[3], way[3][3];

	fresh();
	for (int i = 0; i < 3; i++) {
		if (i == 2) {           /* once more from the first */
			put_back(&rec[0], DB_AGENT);
			for (int n = 0; n < 3; n++)
				put_back(&way[0][n], DB_META);
			CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK);
		}
		CHECK(put(DB_AGENT, "a/x", plain[i], NULL, STORE_ANY) == STORE_OK);
		keep(&rec[i], DB_AGENT, SLICE("a/x"));
		keep_way(way[i], DB_AGENT, "a/x");
	}
	table_newest = &newest;
	newest = 0;
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK && plain_is(DB_AGENT, "a/x", plain[2]));
	raw_put(DB_AGENT, rec[1].key, (struct slice){rec[1].bytes, rec[1].n});
	for (int n = 0; n < 3; n++)
		raw_put(DB_META, way[1][n].key, (struct slice){way[1][n].bytes, way[1][n].n});
	CHECK(read_err(DB_AGENT, "a/x") == STORE_DAMAGED);
	table_newest = NULL;
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK && plain_is(DB_AGENT, "a/x", plain[1]));
}

/* One process writes agents, others read them all the time: none sees what is not so. */
static void
readers_beside_writers_see_no_false_alarm(void)
{
	enum { N = 3 };
	_Atomic uint64_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid[2 * N];
	int status;

	fresh();
	for (int i = 0; i < 40; i++) {
		char key[16];

		snprintf(key, sizeof key, "a/%d", i);
		put(DB_AGENT, key, "{}", NULL, 0);
	}
	table_newest = shared;
	store_close();
	for (int p = 0; p < 2 * N; p++)
		if ((pid[p] = fork()) == 0) {
			uint64_t c, s;

			if (!secret_init() || store_open(home, STORE_WITH_KEY) != STORE_OK)
				_exit(3);
			unsynced();
			for (int i = 0; i < 300; i++) {
				char key[16];
				enum store_err err;

				snprintf(key, sizeof key, "a/%d", (i * 7 + p) % 40);
				if (p < N && put(DB_AGENT, key, "{}", NULL, STORE_ANY) != STORE_OK)
					_exit(4);
				if ((err = read_err(DB_AGENT, key)) != STORE_OK)
					_exit(10 + (int)err);
				if (!store_generations(&c, &s))
					_exit(5);
			}
			_exit(0);
		}
	for (int p = 0; p < 2 * N; p++)
		CHECK(waitpid(pid[p], &status, 0) == pid[p] && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK && store_seen.config == *shared);
	table_newest = NULL;
	munmap((void *)(uintptr_t)shared, 4096);
}

static void
a_batch_that_is_given_up_leaves_the_table_as_it_was(void)
{
	struct store_batch *b;

	fresh();
	CHECK(put(DB_AGENT, "a/x", "{}", NULL, 0) == STORE_OK);
	for (int i = 0; i < 3; i++) {
		b = store_batch_new();
		store_batch_put(b, DB_AGENT, SLICE("a/x"), SLICE("{\"n\":1}"), STORE_ANY, false, 0);
		store_batch_put(b, DB_AGENT, SLICE("a/y"), SLICE("{\"n\":1}"), STORE_ANY, false, 0);
		store_batch_op(b, OP_CHECK, DB_AGENT, SLICE("a/x"), 99);
		CHECK(commit(b, NULL) == STORE_CONFLICT);
		CHECK(read_err(DB_AGENT, "a/x") == STORE_OK && read_err(DB_AGENT, "a/y") == STORE_ABSENT);
		{
			MDB_txn *txn;

			table_begin(&store_written);
			store_written.known = false;
			CHECK(mdb_txn_begin(store.env, NULL, 0, &txn) == 0);
			b = store_batch_new();
			store_batch_put(b, DB_AGENT, SLICE("a/x"), SLICE("{\"n\":2}"), STORE_ANY, false, 0);
			store_batch_op(b, OP_DEL, DB_AGENT, SLICE("a/y"), STORE_ANY);
			CHECK(store_apply(txn, b) == STORE_OK);
			store_batch_free(b);
			mdb_txn_abort(txn);     /* as when the disk is full at the last moment */
		}
		CHECK(put(DB_AGENT, "a/z", "{}", NULL, STORE_ANY) == STORE_OK);
		CHECK(plain_is(DB_AGENT, "a/x", "{}") && reopened(DB_AGENT, "a/x") == STORE_OK);
	}
}

static struct store_record
record_of(enum store_db db, const char *key)
{
	struct store_record r = {.version = 0};

	CHECK(store_read(db, slice_of(key), &r) == STORE_OK);
	store_read_reset();
	return r;
}

static bool
same_id(const struct store_record *a, const struct store_record *b)
{
	return memcmp(a->id, b->id, STORE_ID) == 0;
}

static void
ids_stay_and_epochs_move_with_what_must_end(void)
{
	struct store_batch *b;
	struct store_record r, s;

	fresh();
	put(DB_CREDENTIAL, "c", "{}", "secret", 0);
	put(DB_CREDENTIAL, "d", "{}", "secret", 0);
	r = record_of(DB_CREDENTIAL, "c");
	s = record_of(DB_CREDENTIAL, "d");
	CHECK(!same_id(&r, &s) && r.epoch != s.epoch && r.epoch >> STORE_EPOCH_BITS == 0);
	put(DB_CREDENTIAL, "c", "{\"n\":2}", "secret", STORE_ANY);     /* the same secret, other plain members */
	s = record_of(DB_CREDENTIAL, "c");
	CHECK(same_id(&r, &s) && r.epoch == s.epoch && s.version > r.version);
	put(DB_CREDENTIAL, "c", "{\"n\":2}", "secreT", STORE_ANY);
	s = record_of(DB_CREDENTIAL, "c");
	CHECK(same_id(&r, &s) && r.epoch != s.epoch);
	put(DB_CREDENTIAL, "c", "{}", NULL, STORE_ANY);                 /* without its secret */
	r = record_of(DB_CREDENTIAL, "c");
	CHECK(same_id(&r, &s) && r.epoch != s.epoch);
	for (int flag = 0; flag < 2; flag++) {
		b = store_batch_new();
		store_batch_put(b, DB_CREDENTIAL, SLICE("c"), SLICE("{}"), STORE_ANY, true, 0);
		b->op[0].fresh = flag == 1;
		b->op[0].moves = flag == 0;
		CHECK(commit(b, NULL) == STORE_OK);
		s = record_of(DB_CREDENTIAL, "c");
		CHECK(same_id(&r, &s) == (flag == 0) && r.epoch != s.epoch);
		r = s;
	}
	CHECK(del(DB_CREDENTIAL, "c") == STORE_OK && put(DB_CREDENTIAL, "c", "{}", NULL, 0) == STORE_OK);
	s = record_of(DB_CREDENTIAL, "c");
	CHECK(!same_id(&r, &s));
	raw_put(DB_CREDENTIAL, SLICE("c"), SLICE("rubbish"));
	CHECK(put(DB_CREDENTIAL, "c", "{}", NULL, STORE_ANY) == STORE_OK);
	r = record_of(DB_CREDENTIAL, "c");
	CHECK(!same_id(&r, &s));
}

/* A store of the version before, which knew no users: its databases are made, and nothing else is touched. */
static void
databases_of_a_later_version_are_made(void)
{
	MDB_txn *txn;
	MDB_dbi dbi;

	fresh();
	CHECK(put(DB_BUNDLE, "b", "{}", NULL, 0) == STORE_OK);
	CHECK(mdb_txn_begin(store.env, NULL, 0, &txn) == 0);
	for (int db = DB_USER; db < STORE_DBS; db++)
		CHECK(mdb_drop(txn, store.dbi[db], 1) == 0);
	CHECK(mdb_txn_commit(txn) == 0);
	store_close();
	CHECK(store_env_open(home) == STORE_OK);
	CHECK(mdb_txn_begin(store.env, NULL, MDB_RDONLY, &txn) == 0);
	CHECK(mdb_dbi_open(txn, "user", 0, &dbi) == MDB_NOTFOUND);
	mdb_txn_abort(txn);
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK);
	CHECK(read_err(DB_BUNDLE, "b") == STORE_OK && read_err(DB_USER, "u/x") == STORE_ABSENT);
	CHECK(put(DB_USER, "u/x", "{}", NULL, 0) == STORE_OK && reopened(DB_USER, "u/x") == STORE_OK);
}

/* No version that was released wrote format 1: what it was is said, whoever opens it, and nothing is changed. */
static void
a_store_of_format_1_is_refused(void)
{
	fresh();
	put(DB_AGENT, "a/x", "{}", NULL, 0);
	raw_put(DB_META, STORE_K_FORMAT, SLICE("\0\0\0\1"));
	for (int how = STORE_WITH_KEY; how <= STORE_KEYLESS; how++)
		CHECK(store_open(home, how) == STORE_INVALID && strstr(store_fault.why, "before the first release") != NULL);
	open_raw();
	raw_put(DB_META, STORE_K_FORMAT, SLICE("\0\0\0\2"));
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK && read_err(DB_AGENT, "a/x") == STORE_OK);
}

/* Whoever takes the table away, and puts a record back, is noticed; and an operator's word makes it anew, under
 * which a record that was replaced later is not listed. */
static void
a_table_that_was_taken_away_is_missed(void)
{
	struct entry rec;
	struct store_record r;
	uint64_t version;

	fresh();
	unsynced();
	put(DB_AGENT, "a/temp", "{\"revoked\":false}", NULL, 0);
	put(DB_AGENT, "a/other", "{}", NULL, 0);
	raw_put(DB_AGENT, SLICE("a/bad"), SLICE("rubbish"));
	keep(&rec, DB_AGENT, SLICE("a/temp"));
	put(DB_AGENT, "a/temp", "{\"revoked\":true}", NULL, STORE_ANY);
	put_back(&rec, DB_AGENT);
	CHECK(reopened(DB_AGENT, "a/temp") == STORE_DAMAGED && read_err(DB_AGENT, "a/other") == STORE_OK);
	raw_del(DB_META, SLICE(TABLE_KEY));
	CHECK(store_open(home, STORE_WITH_KEY) == STORE_DAMAGED);
	CHECK(store_open(home, STORE_KEYLESS) == STORE_OK && plain_is(DB_AGENT, "a/other", "{}"));
	store_close();
	open_raw();
	raw_put(DB_META, STORE_K_COUNTERS, SLICE("\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0"));
	CHECK(accepted());              /* the operator's word */
	CHECK(plain_is(DB_AGENT, "a/temp", "{\"revoked\":false}") && plain_is(DB_AGENT, "a/other", "{}"));
	CHECK(read_err(DB_AGENT, "a/bad") == STORE_DAMAGED && read_err(DB_AGENT, "a/none") == STORE_ABSENT);
	r = record_of(DB_AGENT, "a/other");
	version = r.version;
	put(DB_AGENT, "a/temp", "{\"revoked\":true}", NULL, STORE_ANY);
	r = record_of(DB_AGENT, "a/temp");
	CHECK(r.version > version);
	put_back(&rec, DB_AGENT);
	CHECK(reopened(DB_AGENT, "a/temp") == STORE_DAMAGED && read_err(DB_AGENT, "a/other") == STORE_OK);
}

/* Whenever that is killed, the store is as it was, or as it is to be: the kills are spread over the time that the first,
 * which nobody kills, takes. */
static void
kill_9_of_an_accept_loses_nothing(void)
{
	int64_t took = 0;
	int killed = 0;

	for (int i = 0; i < 16; i++) {
		int64_t until;
		pid_t pid;
		int status, wrong = 0;

		fresh();
		unsynced();
		for (int n = 0; n < 120; n++) {
			char key[16];

			snprintf(key, sizeof key, "c%d", n);
			put(DB_CREDENTIAL, key, "{\"n\":1}", "canary", 0);
		}
		if (i == 0) {
			CHECK(accepted());      /* and there is a state to fork with */
			took = clock_ns();
			CHECK(accepted());
			took = clock_ns() - took;
		}
		store_close();
		if ((pid = fork()) == 0)
			_exit(accepted() ? 0 : 1);
		for (until = clock_ns() + took * i / 16; clock_ns() < until;)
			;
		kill(pid, SIGKILL);
		CHECK(waitpid(pid, &status, 0) == pid && (WIFSIGNALED(status) || WEXITSTATUS(status) == 0));
		killed += WIFSIGNALED(status);
		CHECK(store_open(home, STORE_WITH_KEY) == STORE_OK);
		for (int n = 0; n < 120; n++) {
			char key[16];

			snprintf(key, sizeof key, "c%d", n);
			wrong += !secret_is(DB_CREDENTIAL, key, "f/key", "canary");
		}
		CHECK(wrong == 0);
	}
	CHECK(killed != 0);
}

/* Who sets the unauthenticated counters back before an operator accepts does not make roots of before
 * pass for newer ones. */
static void
an_accepted_table_is_beyond_every_one_before(void)
{
	uint64_t before;

	fresh();
	unsynced();
	for (int i = 0; i < 5; i++)
		put(DB_AGENT, "a/x", "{}", NULL, STORE_ANY);
	CHECK(read_err(DB_AGENT, "a/x") == STORE_OK);
	before = store_seen.config;
	for (int i = 0; i < 2; i++) {
		raw_put(DB_META, STORE_K_COUNTERS, SLICE("\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0"));
		CHECK(accepted() && read_err(DB_AGENT, "a/x") == STORE_OK);
		CHECK(store_seen.config > before && store_seen.config < (uint64_t)1 << 53);
		before = store_seen.config;
		put(DB_AGENT, "a/x", "{\"n\":1}", NULL, STORE_ANY);
		usleep(2000);           /* the time in it has milliseconds */
	}
}

/* Somebody changes the file between the look at a tag and the use of what it covers. */
static void
what_was_judged_is_what_is_used(void)
{
	static const char was[] = "{\"revoked\":true,\"x\":4711}", later[] = "{\"revoked\":null,\"x\":4711}";
	static char file[1 << 22];
	struct store_record r;
	int fd, there = 0;
	ssize_t n;

	fresh();
	put(DB_AGENT, "a/x", was, NULL, 0);
	CHECK(store_read(DB_AGENT, SLICE("a/x"), &r) == STORE_OK);
	CHECK((fd = open(in_home("store/data.mdb"), O_RDWR)) >= 0 && (n = read(fd, file, sizeof file)) > 0);
	for (ssize_t i = 0; i + (ssize_t)sizeof was <= n; i++)
		if (memcmp(file + i, was, sizeof was - 1) == 0)
			there += pwrite(fd, later, sizeof later - 1, i) == sizeof later - 1;
	CHECK(there != 0 && slice_eq(r.plain, slice_of(was)));
	CHECK(read_err(DB_AGENT, "a/x") == STORE_DAMAGED);
	close(fd);
}

/* ---- secrets on the disk */

static int canaries;

static int
grep_canary(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)ftw;
	if (type == FTW_F && st->st_size != 0 &&
	    (file_has(path, "canary-") || file_has(path, "Y2FuYXJ5")))
		canaries++;
	return 0;
}

static void
no_secret_lies_readable_in_any_file(void)
{
	fresh();
	put(DB_CREDENTIAL, "c", "{\"old\":1}", "canary-cred", 0);
	for (int i = 0; i < 20; i++)
		put(DB_STATE, "c", "{\"obtained_at\":200}", "canary-new-token", STORE_ANY);
	store_close();
	canaries = 0;
	nftw(tmp, grep_canary, 16, FTW_PHYS);
	CHECK(canaries == 0);
	CHECK(file_has(in_home("store/data.mdb"), "obtained_at"));     /* the grep works */
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
#define CASE(f) {#f, f}
	CASE(init_makes_private_files_and_never_overwrites),
	CASE(init_goes_on_after_a_killed_one),
	CASE(kill_9_of_init_can_be_gone_on_with),
	CASE(sealing_round_trip),
	CASE(bounds_are_kept),
	CASE(every_flipped_byte_of_a_record_is_noticed),
	CASE(records_put_in_anothers_place_are_noticed),
	CASE(sealed_fields_do_not_open_under_another_name),
	CASE(a_damaged_record_can_be_replaced_or_removed_only),
	CASE(key_file_errors_are_named_and_nothing_is_written),
	CASE(without_the_key_names_are_readable_and_secrets_are_not),
	CASE(stores_that_are_newer_damaged_or_no_store_are_refused),
	CASE(every_flipped_byte_of_the_data_key_is_noticed),
	CASE(preconditions_make_conflicts),
	CASE(keep_keeps_replaces_and_drops_secrets),
	CASE(generations_move_and_changes_are_listed),
	CASE(listing_walks_by_prefix),
	CASE(a_full_disk_is_named_and_promised_room_is_there),
	CASE(a_full_map_is_named_and_room_is_counted),
	CASE(writers_in_several_processes_lose_nothing),
	CASE(kill_9_of_a_writer_leaves_old_or_new_whole),
	CASE(a_stopped_writer_meets_deadlines),
	CASE(an_environment_that_failed_is_opened_again),
	CASE(dead_readers_are_cleared),
	CASE(derived_strings_are_stable_and_apart),
	CASE(databases_of_a_later_version_are_made),
	CASE(an_older_record_put_back_is_refused),
	CASE(a_record_that_is_gone_is_no_absent_one),
	CASE(older_nodes_of_the_table_put_back_with_a_record_are_refused),
	CASE(buckets_that_change_places_are_refused),
	CASE(every_flipped_byte_of_the_table_is_noticed),
	CASE(a_bucket_that_began_anew_never_says_absent),
	CASE(a_running_server_notices_a_whole_older_store),
	CASE(a_running_server_notices_another_store_of_its_generation),
	CASE(readers_beside_writers_see_no_false_alarm),
	CASE(a_batch_that_is_given_up_leaves_the_table_as_it_was),
	CASE(ids_stay_and_epochs_move_with_what_must_end),
	CASE(a_store_of_format_1_is_refused),
	CASE(a_table_that_was_taken_away_is_missed),
	CASE(kill_9_of_an_accept_loses_nothing),
	CASE(an_accepted_table_is_beyond_every_one_before),
	CASE(what_was_judged_is_what_is_used),
	CASE(no_secret_lies_readable_in_any_file),
};

int
main(void)
{
	int good = 0, bad = 0;

	snprintf(tmp, sizeof tmp, "/tmp/sallyport-store-XXXXXX");
	if (mkdtemp(tmp) == NULL || !secret_init() || !loop_init(true))
		return 1;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		int before = failed;
		int64_t began = clock_read(CLOCK_MONOTONIC);

		cases[i].run();
		printf("%s %zu - %s # %d ms\n", failed == before ? "ok" : "not ok", i + 1,
		    cases[i].name,
		    (int)(clock_read(CLOCK_MONOTONIC) - began));
		fflush(stdout);
		failed == before ? good++ : bad++;
	}
	store_close();
	nftw(tmp, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	printf("%d passed, %d failed\n", good, bad);
	return bad != 0;
}
