--- Clients whose TLS is wrong, and those that are only unusual.
local get = "GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n"
return {
  shared = { credential = { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-tls" } } },
  cases = {
    { name = "no ALPN", send = get, expect = { status = 200 } },
    { name = "ALPN http/1.1", alpn = "http/1.1", send = get, expect = { status = 200 } },
    -- with h2 offered, h2 is chosen (tests/real/h2_test.py): what is no HTTP/2 ends the connection
    { name = "ALPN h2 and http/1.1, then HTTP/1.1", alpn = { "h2", "http/1.1" }, send = get, expect = { closed = true, upstream = "nothing" } },
    { name = "ALPN of h2 alone, then HTTP/1.1", alpn = "h2", send = get, expect = { closed = true, upstream = "nothing" } },
    { name = "ALPN of another protocol alone", alpn = "h3", send = get, expect = { tls_error = "no_application_protocol", upstream = "nothing" } },
    { name = "another SNI", sni = "other.test", send = get, expect = { tls_error = true, upstream = "nothing" } },
    { name = "TLS 1.3 alone", tls = "tls13_only", send = get, expect = { tls_error = true, upstream = "nothing" } },
    { name = "garbage that begins like TLS", via = "connect", send = "\22\3\1\0\5garbage" .. ("\0"):rep(300), expect = { closed = true, upstream = "nothing" } },
    { name = "a record longer than any", via = "connect", send = "\22\3\1\255\255" .. ("a"):rep(70000), expect = { closed = true, upstream = "nothing" } },
    { name = "half a ClientHello and a close", via = "connect", send = { "\22\3\1\2\0\1\0\1\252\3\3", 0.2, { half_close = true } }, expect = { closed = true, upstream = "nothing" } },
    { name = "a handshake that stalls", via = "connect", send = "\22\3\1\2\0\1\0\1\252\3\3", timeout = 0, wait = 0,
      expect = { upstream = "nothing" } },
    { name = "close without close_notify after a request", send = { get, { answers = 1 }, { close = "ragged" } }, expect = { status = 200 } },
  },
}
