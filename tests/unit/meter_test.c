/* The numbers for /metrics: no count is lost between processes, and names beyond the room are one. */
#include PROXY_C

static int passed, failed;

static void
meter_check(const char *name, bool ok)
{
	printf("%sok %s\n", ok ? "" : "not ", name);
	fflush(stdout);
	*(ok ? &passed : &failed) += 1;
}

static uint64_t
sum(enum meter_kind kind, unsigned of)
{
	uint64_t n = meters->cell[kind].n[of];

	for (size_t i = METER_KINDS; i < METER_CELLS; i++)
		n += meters->cell[i].kind == kind + 1u ? meters->cell[i].n[of] : 0;
	return n;
}

int
main(void)
{
	char name[METER_NAME + 8];
	uint64_t twice = 0, kept;
	pid_t pid[4];
	struct req r = {.allowed = true, .sent = true, .status = 204, .t_start = 1000, .t_first = 1005, .judged = 1001, .id = "1"};

	meter_add(METER_CODE, "x", 1, "", 0);
	meter_check("a process that shares none counts nothing", meters == NULL);
	if (!count_init())
		return 1;
	{
		uint64_t x = 0x0123456789abcdef;
		int64_t ends = clock_wall() + 1000, before = count_add(x, ends, 0, true, 7);

		meter_check("a look makes no counter", before == -1 && count_table->taken[7] == 0);
		meter_check("a counter is looked at by anybody, and stays as it is", count_add(x, ends, 3, false, 7) == 3 &&
		    count_add(x, ends, 0, true, 9) == 3 && count_add(x, ends, 0, true, 7) == 3 &&
		    count_table->taken[7] == 1 && count_table->taken[9] == 0);
	}
	for (int i = 0; i < 4; i++)
		if ((pid[i] = fork()) == 0) {
			for (int k = 0; k < 50000; k++) {
				snprintf(name, sizeof name, "agent-%d", k % 300);
				meter_add(METER_REQUEST, name, text_hash(name), "key", 8);
				meter_took(1, k % 3000);
			}
			_exit(0);
		}
	for (int i = 0; i < 4; i++)
		waitpid(pid[i], NULL, 0);
	meter_check("four processes that count at once lose none", sum(METER_REQUEST, 8) == 200000);
	kept = 0;
	for (size_t i = METER_KINDS; i < METER_CELLS; i++) {
		kept += meters->cell[i].key != 0;
		for (size_t k = i + 1; meters->cell[i].key != 0 && k < METER_CELLS; k++)
			twice += meters->cell[k].key == meters->cell[i].key;
	}
	meter_check("each pair of names has one cell, whoever came first", kept == 300 && twice == 0 && meters->cell[METER_REQUEST].n[8] == 0);
	kept = 0;
	for (unsigned i = 0; i <= METER_STEPS; i++)
		kept += i < METER_STEPS ? meters->took[1][i] : 0;
	meter_check("each time is in one step", kept == 200000);
	for (int k = 0; k < 3000; k++) {
		snprintf(name, sizeof name, "more-%d", k);
		meter_add(METER_REQUEST, name, text_hash(name), "", 2);
	}
	meter_check("names beyond the room are counted as one", sum(METER_REQUEST, 2) == 3000 && meters->cell[METER_REQUEST].n[2] > 1000);
	memset(name, 'a', sizeof name - 1);
	name[sizeof name - 1] = '\0';
	memset(meters, 0, sizeof *meters);
	meter_add(METER_CODE, name, 1, name, 0);
	kept = 0;
	for (size_t i = METER_KINDS; i < METER_CELLS; i++)
		kept += meters->cell[i].n[0] == 1 && strlen(meters->cell[i].a) == METER_NAME - 1 && strlen(meters->cell[i].b) == METER_NAME - 1;
	meter_check("a longer name is cut", kept == 1);
	for (int64_t ms = -1; ms < 70; ms++)
		meter_took(0, ms);
	meter_took(0, INT64_MAX / 2);
	meter_check("step i has what took less than 2^i ms, the last all else", meters->took[0][0] == 2 && meters->took[0][1] == 1 &&
	    meters->took[0][2] == 2 && meters->took[0][6] == 32 && meters->took[0][7] == 6 && meters->took[0][METER_STEPS - 1] == 1);
	memset(meters, 0, sizeof *meters);
	meter_request(&r, 1);
	r.id[0] = '\0';
	text_copy(r.code, sizeof r.code, "client_tls");
	meter_request(&r, 1);
	meter_check("a request is counted once; a connection that ended before one is an error alone",
	    sum(METER_REQUEST, 8) == 1 && sum(METER_CODE, 0) == 1 && meters->took[0][3] == 1 && meters->took[2][1] == 1);
	printf("%d passed, %d failed\n", passed, failed);
	return failed != 0;
}
