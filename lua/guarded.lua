--- The guard's table: which addresses no agent's request may be sent to, and why. addr_guard in proxy.c applies it.
-- A row is { range, why it is refused | false, at | nil, turned | nil }. The first row that holds the address and settles it
-- decides. false: it passes; but with `at` the row settles only when the IPv4 address that begins at that byte is refused itself,
-- `turned`: with all its bits inverted. An address that no row settles is refused.
--
-- From the IANA IPv4 and IPv6 special-purpose address registries (RFC 6890) as of 2025, with the multicast ranges, which those
-- leave out, and addresses that clouds answer credentials on. Left out on purpose: the registries' few globally reachable
-- exceptions inside refused blocks (192.0.0.9, 192.0.0.10, 2001:1::1..3, 2001:3::/32, 2001:4:112::/48, 2001:20::/28,
-- 2001:30::/28): such addresses are answered by the nearest network device, or are identifiers, and no API lives there. Tunnel
-- forms (6to4, Teredo, compatible) are refused even around a public IPv4 address, since the registry calls none of them globally
-- reachable; the IPv4 address inside is judged first for the better reason.
return {
  -- Cloud metadata: first, so that the log names the attack.
  { "169.254.169.254/32", "cloud metadata (AWS, Azure, Google, OpenStack)" },
  { "169.254.170.2/32", "cloud metadata (AWS ECS task credentials)" },
  { "169.254.170.23/32", "cloud metadata (AWS EKS pod identity)" },
  { "169.254.42.42/32", "cloud metadata (Scaleway)" },
  { "169.254.0.23/32", "cloud metadata (Tencent)" },
  { "100.100.100.200/32", "cloud metadata (Alibaba)" },
  { "192.0.0.192/32", "cloud metadata (Oracle)" },
  { "168.63.129.16/32", "cloud metadata (Azure wire server)" },  -- public space
  { "fd00:ec2::254/128", "cloud metadata (AWS)" },
  { "fd00:ec2::23/128", "cloud metadata (AWS EKS pod identity)" },
  { "fd20:ce::254/128", "cloud metadata (Google)" },
  { "fd00:42::42/128", "cloud metadata (Scaleway)" },
  { "fe80::a9fe:a9fe/128", "cloud metadata (OpenStack)" },

  -- IPv4 special-purpose registry.
  { "0.0.0.0/8", "this network (RFC 791)" },  -- Linux dials 0.0.0.0 to itself
  { "10.0.0.0/8", "private (RFC 1918)" },
  { "100.64.0.0/10", "shared, carrier-grade NAT (RFC 6598)" },
  { "127.0.0.0/8", "loopback (RFC 1122)" },
  { "169.254.0.0/16", "link local (RFC 3927)" },
  { "172.16.0.0/12", "private (RFC 1918)" },
  { "192.0.0.0/24", "IETF protocol assignments (RFC 6890)" },
  { "192.0.2.0/24", "documentation (RFC 5737)" },
  { "192.88.99.0/24", "6to4 relay, deprecated (RFC 7526)" },
  { "192.168.0.0/16", "private (RFC 1918)" },
  { "198.18.0.0/15", "benchmarking (RFC 2544)" },
  { "198.51.100.0/24", "documentation (RFC 5737)" },
  { "203.0.113.0/24", "documentation (RFC 5737)" },
  { "224.0.0.0/4", "multicast (RFC 5771)" },
  { "255.255.255.255/32", "limited broadcast (RFC 919)" },
  { "240.0.0.0/4", "reserved (RFC 1112)" },
  { "0.0.0.0/0", false },  -- the rest of IPv4 is global unicast

  -- IPv6 special-purpose registry. IPv4 inside IPv6 first.
  { "::/128", "unspecified (RFC 4291)" },
  { "::1/128", "loopback (RFC 4291)" },
  { "::ffff:0:0/96", false, 12 },
  { "::ffff:0:0/96", false },  -- RFC 4291 2.5.5.2: dialled as IPv4
  { "::/96", false, 12 },
  { "::/96", "IPv4-compatible, deprecated (RFC 4291)" },
  { "64:ff9b::/96", false, 12 },
  { "64:ff9b::/96", false },  -- RFC 6052: NAT64, global
  { "64:ff9b:1::/48", "local NAT64 (RFC 8215)" },  -- IPv4 anywhere in it
  { "2001::/32", false, 4 },  -- RFC 4380 4: the server
  { "2001::/32", false, 12, true },  -- and the client
  { "2001::/32", "Teredo (RFC 4380)" },
  { "2002::/16", false, 2 },
  { "2002::/16", "6to4, deprecated (RFC 7526)" },
  { "100::/64", "discard only (RFC 6666)" },
  { "100:0:0:1::/64", "dummy prefix (RFC 9780)" },
  { "2001:2::/48", "benchmarking (RFC 5180)" },
  { "2001:10::/28", "ORCHID, deprecated (RFC 4843)" },
  { "2001::/23", "IETF protocol assignments (RFC 2928)" },
  { "2001:db8::/32", "documentation (RFC 3849)" },
  { "3fff::/20", "documentation (RFC 9637)" },
  { "5f00::/16", "segment routing (RFC 9602)" },
  { "fc00::/7", "unique local (RFC 4193)" },
  { "fe80::/10", "link local (RFC 4291)" },
  { "fec0::/10", "site local, deprecated (RFC 3879)" },
  { "ff00::/8", "multicast (RFC 4291)" },
  { "2000::/3", false },  -- all of global unicast there is
}
