/* Addresses and the guard: every form in which a private address was ever smuggled past a filter. */
#include PROXY_C
#include "guard.h"

static struct slice
guarded(const char *text)
{
	size_t n = strlen(text);

	return (struct slice){guard_copy(text, n), n};
}

static const struct { const char *text, *canonical; } parse_cases[] = {
	{"1.2.3.4", "1.2.3.4"},
	{"255.255.255.255", "255.255.255.255"},
	{"0.0.0.0", "0.0.0.0"},
	{"::", "::"},
	{"::1", "::1"},
	{"2001:DB8:0:0:0:0:0:1", "2001:db8::1"},
	{"2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"},
	{"::ffff:10.0.0.1", "::ffff:10.0.0.1"},
	{"::ffff:a00:1", "::ffff:10.0.0.1"},
	{"64:ff9b::10.0.0.1", "64:ff9b::a00:1"},
	{"1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"},
	{"127.1", NULL},
	{"0x7f.1", NULL},
	{"2130706433", NULL},
	{"0177.0.0.1", NULL},
	{"127.0.0.01", NULL},
	{"1.2.3.4.", NULL},
	{"1.2.3", NULL},
	{"1.2.3.4.5", NULL},
	{"1.2.3.256", NULL},
	{"1.2.3.-4", NULL},
	{" 1.2.3.4", NULL},
	{"", NULL},
	{":", NULL},
	{":::", NULL},
	{"1::2::3", NULL},
	{"12345::", NULL},
	{"::g", NULL},
	{"[::1]", NULL},
	{"fe80::1%eth0", NULL},
	{"fe80::1%25eth0", NULL},
	{"::ffff:127.1", NULL},
	{"1:2:3:4:5:6:7", NULL},
	{"1:2:3:4:5:6:7:8:9", NULL},
	{"0000:0000:0000:0000:0000:ffff:255.255.255.255:1", NULL},
};

static void
test_parse(void)
{
	for (size_t i = 0; i < sizeof parse_cases / sizeof parse_cases[0]; i++) {
		const char *want = parse_cases[i].canonical;
		char name[128], out[ADDR_TEXT_MAX] = "";
		struct addr a;
		bool ok = addr_parse(guarded(parse_cases[i].text), &a);

		if (ok)
			addr_format(&a, out);
		snprintf(name, sizeof name, "parse '%s'", parse_cases[i].text);
		test_result(ok == (want != NULL) && (!ok || strcmp(out, want) == 0), name,
		    "got %s", ok ? out : "nothing");
	}
	struct addr a;
	test_result(!addr_parse((struct slice){"1.2.3.4\0x", 9}, &a), "parse stops at no NUL", "taken");
}

static const struct { const char *text, *want; } legacy_cases[] = {
	{"127.1", "127.0.0.1"},
	{"127.0.1", "127.0.0.1"},
	{"0x7f.1", "127.0.0.1"},
	{"0X7F.0.0.1", "127.0.0.1"},
	{"0177.0.0.1", "127.0.0.1"},
	{"0177.1", "127.0.0.1"},
	{"2130706433", "127.0.0.1"},
	{"0x7f000001", "127.0.0.1"},
	{"017700000001", "127.0.0.1"},
	{"127.0.0.1.", "127.0.0.1"},
	{"10.1", "10.0.0.1"},
	{"010.0.0.1", "8.0.0.1"},
	{"1.2.65535", "1.2.255.255"},
	{"1.16777215", "1.255.255.255"},
	{"4294967295", "255.255.255.255"},
	{"0x", NULL},
	{"0", "0.0.0.0"},
	{"1.2.3.4", "1.2.3.4"},
	{"4294967296", NULL},
	{"1.16777216", NULL},
	{"1.2.65536", NULL},
	{"1.2.3.256", NULL},
	{"256.1", NULL},
	{"1.256.1", NULL},
	{"1.2.3.4.5", NULL},
	{"1..2", NULL},
	{"", NULL},
	{".", NULL},
	{"1.2.3.4..", NULL},
	{"08", NULL},
	{"0xg", NULL},
	{"1a", NULL},
	{"1.2.3.4 x", NULL},
	{"-1", NULL},
	{"99999999999999999999999999", NULL},
};

static void
test_legacy(void)
{
	for (size_t i = 0; i < sizeof legacy_cases / sizeof legacy_cases[0]; i++) {
		const char *want = legacy_cases[i].want;
		char name[128], out[ADDR_TEXT_MAX] = "";
		struct addr a;
		bool ok = addr_parse_legacy(guarded(legacy_cases[i].text), &a);

		if (ok)
			addr_format(&a, out);
		snprintf(name, sizeof name, "inet_aton form '%s'", legacy_cases[i].text);
		test_result(ok == (want != NULL) && (!ok || strcmp(out, want) == 0), name,
		    "got %s", ok ? out : "nothing");
	}
}

/* reason: NULL passes; else the beginning of why not. */
static const struct { const char *text, *reason; } guard_cases[] = {
	/* global unicast */
	{"1.1.1.1", NULL},
	{"8.8.8.8", NULL},
	{"9.255.255.255", NULL},
	{"11.0.0.0", NULL},
	{"100.63.255.255", NULL},
	{"100.128.0.0", NULL},
	{"126.255.255.255", NULL},
	{"128.0.0.0", NULL},
	{"169.253.255.255", NULL},
	{"169.255.0.0", NULL},
	{"172.15.255.255", NULL},
	{"172.32.0.0", NULL},
	{"192.0.1.0", NULL},
	{"192.0.3.0", NULL},
	{"192.167.255.255", NULL},
	{"192.169.0.0", NULL},
	{"198.17.255.255", NULL},
	{"198.20.0.0", NULL},
	{"223.255.255.255", NULL},
	{"2606:4700:4700::1111", NULL},
	{"2001:4860:4860::8888", NULL},
	{"2001:200::1", NULL},
	{"2003::1", NULL},
	{"3ffe::1", NULL},
	{"::ffff:8.8.8.8", NULL},
	{"64:ff9b::8.8.8.8", NULL},

	/* IPv4 */
	{"0.0.0.0", "this network"},
	{"0.1.2.3", "this network"},
	{"10.0.0.0", "private"},
	{"10.255.255.255", "private"},
	{"100.64.0.0", "shared"},
	{"100.127.255.255", "shared"},
	{"127.0.0.1", "loopback"},
	{"127.255.255.255", "loopback"},
	{"169.254.0.1", "link local"},
	{"172.16.0.0", "private"},
	{"172.31.255.255", "private"},
	{"192.0.0.1", "IETF"},
	{"192.0.0.9", "IETF"},
	{"192.0.2.1", "documentation"},
	{"192.88.99.1", "6to4 relay"},
	{"192.168.0.1", "private"},
	{"198.18.0.1", "benchmarking"},
	{"198.19.255.255", "benchmarking"},
	{"198.51.100.1", "documentation"},
	{"203.0.113.1", "documentation"},
	{"224.0.0.1", "multicast"},
	{"239.255.255.255", "multicast"},
	{"240.0.0.1", "reserved"},
	{"255.255.255.254", "reserved"},
	{"255.255.255.255", "limited broadcast"},

	/* metadata */
	{"169.254.169.254", "cloud metadata"},
	{"169.254.170.2", "cloud metadata"},
	{"169.254.170.23", "cloud metadata"},
	{"100.100.100.200", "cloud metadata"},
	{"168.63.129.16", "cloud metadata"},
	{"192.0.0.192", "cloud metadata"},
	{"fd00:ec2::254", "cloud metadata"},
	{"fd00:ec2::23", "cloud metadata"},
	{"fd20:ce::254", "cloud metadata"},
	{"fe80::a9fe:a9fe", "cloud metadata"},
	{"::ffff:169.254.169.254", "cloud metadata"},
	{"64:ff9b::a9fe:a9fe", "cloud metadata"},
	{"2002:a9fe:a9fe::", "cloud metadata"},

	/* IPv6 */
	{"::", "unspecified"},
	{"::1", "loopback"},
	{"100::1", "discard"},
	{"100:0:0:1::1", "dummy"},
	{"2001:2::1", "benchmarking"},
	{"2001:10::1", "ORCHID"},
	{"2001:1::1", "IETF"},
	{"2001:20::1", "IETF"},
	{"2001:1ff:ffff::", "IETF"},
	{"2001:db8::1", "documentation"},
	{"3fff::1", "documentation"},
	{"3fff:fff::1", "documentation"},
	{"5f00::1", "segment routing"},
	{"fc00::1", "unique local"},
	{"fdff::1", "unique local"},
	{"fe80::1", "link local"},
	{"febf::1", "link local"},
	{"fec0::1", "site local"},
	{"ff02::1", "multicast"},
	{"ff0e::1", "multicast"},
	{"4000::1", "not global unicast"},
	{"1fff::1", "not global unicast"},
	{"64:ff9b:2::1", "not global unicast"},
	{"1::1", "not global unicast"},

	/* IPv4 inside */
	{"::ffff:127.0.0.1", "loopback"},
	{"::ffff:10.1.2.3", "private"},
	{"::ffff:0.0.0.0", "this network"},
	{"::ffff:224.0.0.1", "multicast"},
	{"::127.0.0.1", "loopback"},
	{"::10.0.0.1", "private"},
	{"::8.8.8.8", "IPv4-compatible"},
	{"64:ff9b::127.0.0.1", "loopback"},
	{"64:ff9b::192.168.1.1", "private"},
	{"64:ff9b:1::10.0.0.1", "local NAT64"},
	{"64:ff9b:1::8.8.8.8", "local NAT64"},
	{"64:ff9b:1:a00:0:100::", "local NAT64"},   /* RFC 6052 2.2: 10.0.0.1 in a /48 */
	{"64:ff9b::1:0:0", "not global unicast"},
	{"2002:7f00:1::", "loopback"},
	{"2002:a00:1::1", "private"},
	{"2002:c0a8:101::1", "private"},
	{"2002:808:808::1", "6to4"},
	{"2001:0:a00:1:8000:63bf:3fff:fdd2", "private"},           /* server 10.0.0.1 */
	{"2001:0:4136:e378:8000:63bf:80ff:fffe", "loopback"},      /* client 127.0.0.1, inverted */
	{"2001:0:4136:e378:8000:63bf:f5ff:fffe", "private"},       /* client 10.0.0.1 */
	{"2001:0:4136:e378:8000:63bf:5601:5601", "cloud metadata"},
	{"2001:0:4136:e378:8000:63bf:f7f7:f7f7", "Teredo"},        /* both ends public */
};

static void
test_guard(void)
{
	for (size_t i = 0; i < sizeof guard_cases / sizeof guard_cases[0]; i++) {
		const char *want = guard_cases[i].reason, *why;
		char name[128];
		struct addr a;

		snprintf(name, sizeof name, "guard %s %s", want == NULL ? "passes" : "refuses",
		    guard_cases[i].text);
		if (!addr_parse(guarded(guard_cases[i].text), &a)) {
			test_result(false, name, "does not parse");
			continue;
		}
		why = addr_guard(&a);
		test_result(want == NULL ? why == NULL :
		    why != NULL && strncmp(why, want, strlen(want)) == 0, name,
		    "%s", why == NULL ? "passed" : why);
	}
}

/* This machine's own addresses and IPv6 networks are private, however they are written, and read anew as they change. */
static void
test_guard_own(void)
{
	static const struct { const char *text; bool refused; } cases[] = {
		{"93.184.216.34", true}, {"93.184.216.35", false}, {"::ffff:93.184.216.34", true}, {"64:ff9b::5db8:d822", true},
		{"64:ff9b::5db8:d823", false}, {"2a00:1:2:3::1", true}, {"2a00:1:2:3:ffff::9", true}, {"2a00:1:2:4::1", false},
		{"2a00:2:2:9::1", true}, {"2a00:2:3:9::1", false}, {"8.8.8.8", false},
	};
	static const char *const own[] = {"93.184.216.34/32", "2a00:1:2:3::/64", "2a00:2:2::/48"};
	bool lo = false;

	loop_time = clock_read(CLOCK_MONOTONIC);
	for (addr_own.n = 0; addr_own.n < COUNT(own); addr_own.n++)
		cidr_parse(guarded(own[addr_own.n]), &addr_own.range[addr_own.n]);
	addr_own.until = loop_time + 1000;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct addr a;
		const char *why = addr_parse(guarded(cases[i].text), &a) ? addr_guard(&a) : "?";

		test_result(cases[i].refused ? why != NULL && strncmp(why, "this machine's own", 18) == 0 : why == NULL,
		    cases[i].text, "%s", why == NULL ? "passed" : why);
	}
	addr_own.until = loop_time;
	addr_guard(&addr_own.range[0].a);       /* a public address: the list is asked, and read again */
	for (size_t i = 0; i < addr_own.n; i++)
		lo = lo || (addr_own.range[i].a.v4 && addr_own.range[i].a.b[0] == 127 && addr_own.range[i].bits == 32);
	test_result(lo && addr_own.until > loop_time, "the interfaces' addresses are read", "%zu of them", addr_own.n);
}

/* Before the rows are read. */
static void
test_guard_empty(void)
{
	struct addr a;

	addr_parse(guarded("8.8.8.8"), &a);
	test_result(addr_guard(&a) != NULL, "without its rows the guard refuses every address", "it passed");
}

/* A row that an earlier one hides would be a reason nobody can ever read. */
static void
test_guard_rows(void)
{
	bool shadowed = false, dirty = addr_guard(&(struct addr){.v4 = true}) == NULL;

	for (size_t i = 0; i < addr_guard_n; i++) {
		const struct cidr *c = &addr_guard_rows[i].range;
		char text[ADDR_TEXT_MAX + 4];
		struct cidr again;
		size_t n = addr_format(&c->a, text);

		n += (size_t)snprintf(text + n, sizeof text - n, "/%d", c->bits);
		dirty |= !cidr_parse((struct slice){text, n}, &again) || again.bits != c->bits;
		for (size_t k = 0; k < i; k++) {
			const struct cidr *e = &addr_guard_rows[k].range;

			if (addr_guard_rows[k].at == 0 && e->a.v4 == c->a.v4 &&
			    e->bits <= c->bits && addr_in_prefix(c->a.b, e->a.b, e->bits))
				shadowed = true;
		}
	}
	test_result(addr_guard_n > 50, "the guard has its rows", "%zu", addr_guard_n);
	test_result(!shadowed, "no row of the guard hides a later one", "one does");
	test_result(!dirty, "no row of the guard has bits behind its prefix", "one has");
}

static const struct { const char *text, *canonical; } cidr_cases[] = {
	{"10.0.0.0/8", "10.0.0.0/8"},
	{"0.0.0.0/0", "0.0.0.0/0"},
	{"1.2.3.4", "1.2.3.4/32"},
	{"1.2.3.4/32", "1.2.3.4/32"},
	{"::/0", "::/0"},
	{"fd00::/8", "fd00::/8"},
	{"::1", "::1/128"},
	{"2001:db8::/33", "2001:db8::/33"},
	{"10.0.0.1/8", NULL},
	{"2001:db8::1/64", NULL},
	{"10.0.0.0/33", NULL},
	{"::/129", NULL},
	{"10.0.0.0/", NULL},
	{"10.0.0.0/08", NULL},
	{"10.0.0.0/+8", NULL},
	{"10.0.0.0/8 ", NULL},
	{"10.0.0.0/8/8", NULL},
	{"10.0.0.0/1000", NULL},
	{"10/8", NULL},
	{"/8", NULL},
	{"", NULL},
	{"localhost/8", NULL},
};

static const struct { const char *cidr, *addr; bool inside; } contains_cases[] = {
	{"10.0.0.0/8", "10.255.0.1", true},
	{"10.0.0.0/8", "11.0.0.0", false},
	{"10.0.0.0/8", "::ffff:10.0.0.1", true},
	{"10.0.0.0/8", "::10.0.0.1", false},
	{"10.0.0.0/8", "64:ff9b::a00:1", false},
	{"0.0.0.0/0", "::1", false},
	{"0.0.0.0/0", "::ffff:127.0.0.1", true},
	{"::/0", "10.0.0.1", false},
	{"::/0", "::ffff:10.0.0.1", false},
	{"::ffff:0:0/96", "::ffff:10.0.0.1", true},
	{"::ffff:0:0/96", "10.0.0.1", false},
	{"::ffff:10.0.0.0/104", "::ffff:11.0.0.1", false},
	{"::/0", "fd00::1", true},
	{"fd00::/8", "fdff::1", true},
	{"fd00::/8", "fc00::1", false},
	{"192.0.2.128/25", "192.0.2.127", false},
	{"192.0.2.128/25", "192.0.2.255", true},
	{"192.0.2.1", "192.0.2.1", true},
	{"192.0.2.1", "192.0.2.0", false},
};

static void
test_cidr(void)
{
	struct cidr c;
	struct addr a;
	char name[128], out[64];

	for (size_t i = 0; i < sizeof cidr_cases / sizeof cidr_cases[0]; i++) {
		const char *want = cidr_cases[i].canonical;
		bool ok = cidr_parse(guarded(cidr_cases[i].text), &c);
		size_t n = ok ? addr_format(&c.a, out) : 0;

		snprintf(out + n, sizeof out - n, "/%d", ok ? c.bits : 0);
		snprintf(name, sizeof name, "range '%s'", cidr_cases[i].text);
		test_result(ok == (want != NULL) && (!ok || strcmp(out, want) == 0), name,
		    "got %s", ok ? out : "nothing");
	}
	for (size_t i = 0; i < sizeof contains_cases / sizeof contains_cases[0]; i++) {
		bool ok = cidr_parse(slice_of(contains_cases[i].cidr), &c) &&
		    addr_parse(slice_of(contains_cases[i].addr), &a);

		snprintf(name, sizeof name, "%s is %sin %s", contains_cases[i].addr,
		    contains_cases[i].inside ? "" : "not ", contains_cases[i].cidr);
		test_result(ok && cidr_contains(&c, &a) == contains_cases[i].inside, name, "it is otherwise");
	}
}

/* Every prefix of every text, before the guard page: nothing is read past its end. */
static void
test_prefixes(void)
{
	struct addr a;
	struct cidr c;

	for (size_t i = 0; i < sizeof parse_cases / sizeof parse_cases[0]; i++)
		for (size_t n = 0; n <= strlen(parse_cases[i].text); n++) {
			struct slice s = {guard_copy(parse_cases[i].text, n), n};

			addr_parse(s, &a);
			addr_parse_legacy(s, &a);
			cidr_parse(s, &c);
		}
	test_result(true, "every prefix before a guard page", " ");
}

int
main(void)
{
	test_guard_empty();
	if (!secret_init() || !loop_init(false) || lua_open_state(false) == NULL)
		abort();
	test_parse();
	test_legacy();
	test_guard();
	test_guard_own();
	test_guard_rows();
	test_cidr();
	test_prefixes();
	return test_end();
}
