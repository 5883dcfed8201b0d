--- The credential that goes out: what each type sets, what of the agent's own goes, and where it never goes.
local function case(name, host, fields, upstream, more)
  local c = { name = name, host = host, send = "GET /v1?q=1 HTTP/1.1\r\nHost: " .. host .. "\r\n" .. fields .. "\r\n",
              expect = { status = 200, upstream = upstream } }
  for k, v in pairs(more or {}) do c[k] = v end
  return c
end

local FORM = "Content-Type: application/x-www-form-urlencoded\r\n"

-- A POST where GET and POST are allowed.
local function post(name, fields, body, upstream, expect)
  return { name = name, host = "post.test", expect = expect or { status = 200, upstream = upstream },
    send = ("POST /v1 HTTP/1.1\r\nHost: post.test\r\n%sContent-Length: %d\r\n\r\n%s"):format(fields, #body, body) }
end

-- As long as a head may be: what is attached beside it must not decide whether it is too long.
local function padded(n)
  local head = "GET /v1 HTTP/1.1\r\nHost: api.test\r\nX-Pad: "
  return head .. ("a"):rep(n - #head - 4) .. "\r\n\r\n"
end

return {
  shared = {
    hosts = { "api.test", "basic.test", "empty.test", "key.test", "prefix.test", "more.test", "get.test", "deep.a.test", "free.test", "head.test", "post.test", "odd1.test", "odd2.test", "odd3.test" },
    credentials = {
      { name = "bearer", type = "bearer", host = "api.test", secrets = { token = "canary-bearer" } },
      { name = "basic", type = "basic", host = "basic.test", fields = { username = "user" }, secrets = { password = "canary-pass" } },
      { name = "empty", type = "basic", host = "empty.test", fields = { username = "canary-name" }, secrets = { password = "" } },
      { name = "key", type = "api_key", host = "key.test", secrets = { key = "canary-key" } },
      { name = "prefix", type = "api_key", host = "prefix.test", fields = { header = "X-Token", prefix = "Token " }, secrets = { key = "canary-prefix" } },
      { name = "more", type = "bearer", host = "more.test", fields = { ["headers.X-Version"] = "2026-01-01" },
        secrets = { token = "canary-more", ["headers.X-Account"] = "canary-account" } },
      { name = "get", type = "bearer", host = "get.test", method = { "GET" }, secrets = { token = "canary-get" } },
      { name = "post", type = "bearer", host = "post.test", method = { "GET", "POST" }, secrets = { token = "canary-post" } },
      { name = "deep", type = "bearer", host = "*.a.test", secrets = { token = "canary-deep" } },
      { name = "odd", type = "bearer", host = { "odd1.test", "odd2.test", "odd3.test" }, secrets = { token = "canary-odd" } },
      { name = "plain", type = "bearer", host = "plain.test", plain_http = true, secrets = { token = "canary-plain" } },
    },
    domains = { { host = "free.test" }, { host = "head.test", method = { "GET", "POST" } } },
    servers = { plain = { host = { "plain.test", "api.test" }, plain = true } },
  },
  cases = {
    { name = "the longest head, beside a credential", send = padded(65536),
      expect = { status = 200, upstream = { header = { authorization = "Bearer canary-bearer" } } } },
    { name = "a head longer by a byte", send = padded(65537), expect = { status = 431, error = "head_too_large", upstream = "nothing" } },
    { name = "a GET with a body ends its upstream connection", host = "odd1.test", expect = { answers = 3, upstream = {
        requests = 3, connections = 2 } },
      send = { "GET /a HTTP/1.1\r\nHost: odd1.test\r\nContent-Length: 27\r\n\r\nGET /secret HTTP/1.1\r\nX: y\r", { answers = 1 },
        "GET /b HTTP/1.1\r\nHost: odd1.test\r\nContent-Length: 0\r\n\r\n", { answers = 2 },
        "GET /c HTTP/1.1\r\nHost: odd1.test\r\n\r\n", { answers = 3 } } },
    { name = "so does a chunked DELETE", host = "odd2.test", expect = { answers = 2, upstream = { requests = 2, connections = 2 } },
      send = { "DELETE /a HTTP/1.1\r\nHost: odd2.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", { answers = 1 },
        "GET /b HTTP/1.1\r\nHost: odd2.test\r\n\r\n", { answers = 2 } } },
    { name = "and a POST does not", host = "odd3.test", expect = { answers = 2, upstream = { requests = 2, connections = 1 } },
      send = { "POST /a HTTP/1.1\r\nHost: odd3.test\r\nContent-Length: 1\r\n\r\nx", { answers = 1 },
        "GET /b HTTP/1.1\r\nHost: odd3.test\r\n\r\n", { answers = 2 } } },
    case("bearer", "api.test", "", { header = { authorization = "Bearer canary-bearer" } }),
    case("an agent's own Authorization goes", "api.test", "Authorization: Bearer mine\r\nauthorization: Basic eDp5\r\n",
      { header = { authorization = "Bearer canary-bearer" }, head_not = "mine" }),
    case("what an agent lists in Connection cannot remove ours", "api.test", "Connection: authorization, close\r\n",
      { header = { authorization = "Bearer canary-bearer" } }),
    case("basic", "basic.test", "", { header = { authorization = "Basic dXNlcjpjYW5hcnktcGFzcw==" } }),
    case("basic with an empty password", "empty.test", "", { header = { authorization = "Basic Y2FuYXJ5LW5hbWU6" } }),
    case("api_key", "key.test", "", { header = { ["x-api-key"] = "canary-key" }, no_header = "authorization" }),
    case("an agent's own key goes, whatever its case", "key.test", "X-API-Key: mine\r\nx-api-key: mine2\r\n",
      { header = { ["x-api-key"] = "canary-key" }, head_not = "mine" }),
    case("an agent's own key goes with _ for -", "key.test", "X_Api_Key: mine\r\n",
      { header = { ["x-api-key"] = "canary-key" }, head_not = "mine" }),
    { name = "an agent's own key does not come back as a trailer", host = "key.test",
      send = "POST /v1 HTTP/1.1\r\nHost: key.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX_Api-Key: mine\r\nX-Sum: 7\r\nAuthorization: Bearer mine\r\n\r\n",
      expect = { status = 200, upstream = { header = { ["x-api-key"] = "canary-key" }, raw_body = "3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n" } } },
    case("an agent's own Authorization goes though the type sets another header", "key.test", "Authorization: Bearer mine\r\n",
      { header = { ["x-api-key"] = "canary-key" }, head_not = "mine" }),
    case("api_key with header and prefix", "prefix.test", "", { header = { ["x-token"] = "Token canary-prefix" } }),
    case("further headers, plain and secret", "more.test", "X-Version: mine\r\nX-Account: mine\r\n",
      { header = { authorization = "Bearer canary-more", ["x-version"] = "2026-01-01", ["x-account"] = "canary-account" } }),
    case("a wildcard at any depth", "deep.a.test", "", { header = { authorization = "Bearer canary-deep" } }),
    { name = "a wildcard is not its apex", host = "a.test", send = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
      expect = { status = 403, error = "host_not_allowed", upstream = "nothing" } },
    { name = "a method that is not allowed", host = "get.test", send = "POST / HTTP/1.1\r\nHost: get.test\r\nContent-Length: 0\r\n\r\n",
      expect = { status = 403, error = "method_not_allowed", upstream = "nothing" } },
    { name = "GET implies HEAD", host = "get.test", send = "HEAD / HTTP/1.1\r\nHost: get.test\r\n\r\n",
      expect = { status = 200, upstream = { header = { authorization = "Bearer canary-get" } } } },
    { name = "an override of the method goes where a method rule decided", host = "get.test",
      send = "GET / HTTP/1.1\r\nHost: get.test\r\nX-HTTP-Method-Override: DELETE\r\nX-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n\r\n",
      expect = { status = 200, upstream = { no_header = { "x-http-method-override", "x-method-override", "x-http-method", "x-original-url", "x-rewrite-url" } } } },
    { name = "an override of the method in the query goes, too", host = "get.test",
      send = "GET /x?a=1&_method=DELETE&b&_METHOD[]=PUT&%5fmethod=PUT&.method=PUT&_HttpMethod=PATCH&X-HTTP-Method-Override=PUT&$httpMethod=POST&%24httpHeaders=x%3Ay&c;_method=PUT&payment_method=d HTTP/1.1\r\nHost: get.test\r\n\r\n",
      expect = { status = 200, upstream = { line = "GET /x?a=1&b&payment_method=d HTTP/1.1" } } },
    { name = "and stays where nothing decided by method", host = "api.test", send = "GET /x?_method=DELETE HTTP/1.1\r\nHost: api.test\r\n\r\n",
      expect = { status = 200, upstream = { line = "GET /x?_method=DELETE HTTP/1.1" } } },
    { name = "from a domain entry's query, too", host = "free.test", send = "GET /x?_method=DELETE HTTP/1.1\r\nHost: free.test\r\n\r\n",
      expect = { status = 200, upstream = { line = "GET /x HTTP/1.1" } } },
    post("an override of the method in a form goes", FORM, "a=1&_method=DELETE&_Method[x]=PUT&payment_method=b&%5Fmethod=PUT",
      { body = "a=1&payment_method=b", header = { ["content-length"] = "20", authorization = "Bearer canary-post" } }),
    post("and in one without a type", "", "_method=DELETE&a=1", { body = "a=1" }),
    post("nor with the type empty", "Content-Type:\r\n", "_method=DELETE&a=1", { body = "a=1" }),
    post("nor as PHP and Rack read names: behind a space, in or before brackets", FORM,
      " _method=PUT&a=1& _method=PUT&%20+ _method=PUT&[_method]=PUT&[]_method=PUT&_method]=PUT&%5B_method%5D=PUT&b=2", { body = "a=1&b=2" }),
    post("and in one that has two types", "Content-Type: text/plain\r\nContent-Type: Application/X-WWW-Form-URLEncoded; charset=x\r\n", "_method=DELETE&a=1",
      { body = "a=1" }),
    post("a form that is compressed cannot be looked into", FORM .. "Content-Encoding: gzip\r\n", "_method=DELETE", nil,
      { status = 400, error = "bad_request", upstream = "nothing" }),
    post("a long form is looked through too", FORM, "a=" .. ("x"):rep(1 << 20) .. "&_method=DELETE", nil,
      { status = 403, error = "method_not_allowed", upstream = "nothing" }),
    post("another body streams, whatever its size", "Content-Type: application/octet-stream\r\n", ("x"):rep((1 << 20) + 1), { body_size = (1 << 20) + 1 }),
    { name = "a domain entry carries no credential", host = "free.test", send = "GET / HTTP/1.1\r\nHost: free.test\r\nAuthorization: Bearer own\r\n\r\n",
      expect = { status = 200, log = { host = "free.test", decision = "allow" } } },
    { name = "a domain entry is for reading", host = "free.test", send = "POST / HTTP/1.1\r\nHost: free.test\r\nContent-Length: 0\r\n\r\n",
      expect = { status = 403, error = "method_not_allowed", upstream = "nothing" } },
    { name = "a domain entry with methods", host = "head.test", send = "POST / HTTP/1.1\r\nHost: head.test\r\nContent-Length: 2\r\n\r\nab",
      expect = { status = 200, upstream = { body = "ab" } } },
    { name = "plain HTTP where the credential allows it", via = "proxy", send = "GET http://plain.test/p HTTP/1.1\r\nHost: plain.test\r\n${AUTH}\r\n",
      expect = { status = 200, servers = { plain = { line = "GET /p HTTP/1.1", header = { authorization = "Bearer canary-plain" }, no_header = "proxy-authorization" } } } },
    { name = "plain HTTP where the credential does not", via = "proxy", send = "GET http://api.test/p HTTP/1.1\r\nHost: api.test\r\n${AUTH}\r\n",
      expect = { raw_has = "HTTP/1.1 403", upstream = "nothing", servers = { plain = "nothing" } } },
  },
}
