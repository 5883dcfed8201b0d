/* Who writes to the disk and has no key: reads and writes a store through LMDB alone, also beside a running server.
 *
 * disk STORE list            a line for each entry: its database, its key and its value, both in hexadecimal
 * disk STORE put < LINES     such lines, in one transaction; without a value the entry is deleted */
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_ (8 << 20)

static MDB_env *env;
static MDB_txn *txn;

static void
must(int rc, const char *what)
{
	if (rc == 0)
		return;
	fprintf(stderr, "disk: %s: %s\n", what, mdb_strerror(rc));
	exit(1);
}

static void
print_hex(MDB_val v)
{
	for (size_t i = 0; i < v.mv_size; i++)
		printf("%02x", ((unsigned char *)v.mv_data)[i]);
}

static MDB_val
read_hex(char *s)
{
	unsigned byte;
	size_t n = 0;

	for (; sscanf(s + 2 * n, "%2x", &byte) == 1; n++)
		s[n] = (char)byte;      /* behind what was read */
	return (MDB_val){n, s};
}

static void
list(MDB_dbi names)
{
	MDB_cursor *dbs, *cur;
	MDB_val name, k, v;
	MDB_dbi dbi;

	must(mdb_cursor_open(txn, names, &dbs), "cursor");
	while (mdb_cursor_get(dbs, &name, &v, MDB_NEXT) == 0) {
		char text[64];

		snprintf(text, sizeof text, "%.*s", (int)name.mv_size, (char *)name.mv_data);
		must(mdb_dbi_open(txn, text, 0, &dbi), text);
		must(mdb_cursor_open(txn, dbi, &cur), text);
		while (mdb_cursor_get(cur, &k, &v, MDB_NEXT) == 0) {
			printf("%s ", text);
			print_hex(k);
			printf(" ");
			print_hex(v);
			printf("\n");
		}
		mdb_cursor_close(cur);
	}
}

static void
put(void)
{
	char *line = malloc(LINE_MAX_);

	while (line != NULL && fgets(line, LINE_MAX_, stdin) != NULL) {
		char *name = strtok(line, " \n"), *key = strtok(NULL, " \n"), *value = strtok(NULL, " \n");
		MDB_dbi dbi;
		MDB_val k, v;

		must(mdb_dbi_open(txn, name, 0, &dbi), name);
		k = read_hex(key);
		if (value == NULL) {
			must(mdb_del(txn, dbi, &k, NULL), "del");
		} else {
			v = read_hex(value);
			must(mdb_put(txn, dbi, &k, &v, 0), "put");
		}
	}
	free(line);
}

int
main(int argc, char **argv)
{
	int write = argc == 3 && strcmp(argv[2], "put") == 0;
	MDB_dbi names;

	if (argc != 3)
		return 2;
	must(mdb_env_create(&env), "env");
	must(mdb_env_set_mapsize(env, (size_t)1 << 30), "map");
	must(mdb_env_set_maxdbs(env, 32), "dbs");
	must(mdb_env_set_maxreaders(env, 256), "readers");
	must(mdb_env_open(env, argv[1], 0, 0600), argv[1]);
	must(mdb_txn_begin(env, NULL, write ? 0 : MDB_RDONLY, &txn), "begin");
	must(mdb_dbi_open(txn, NULL, 0, &names), "names");
	if (write)
		put();
	else
		list(names);
	must(mdb_txn_commit(txn), "commit");
	mdb_env_close(env);
	return 0;
}
