--- What a preset brings: the other names under which its API takes a key go, and its calls that make keys are refused.
local function get(host, target, fields, expect)
  return { name = target .. " " .. fields:gsub("%s+", " "), host = host,
    send = ("GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n"):format(target, host, fields), expect = expect }
end

local function post(host, target, expect)
  return { name = "POST " .. host .. target, host = host,
    send = ("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n\r\n"):format(target, host), expect = expect }
end

local function graphql(name, body, fields, expect)
  return { name = "GraphQL: " .. name, host = "linear.test",
    send = ("POST /graphql HTTP/1.1\r\nHost: linear.test\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s"):format(
      fields, #body, body), expect = expect }
end

local denied = { status = 403, error = "mint_denied", upstream = "nothing" }

return {
  shared = {
    hosts = { "gh.test", "free.test", "claude.test", "lab.test", "gemini.test", "key.test", "param.test", "linear.test" },
    credentials = {
      { name = "gh", preset = "github", host = "gh.test", secrets = { token = "canary-gh" } },
      { name = "free", preset = "github", host = "free.test", fields = { mint = "allow" }, secrets = { token = "canary-free" } },
      { name = "claude", preset = "claude-code", host = "claude.test", secrets = { token = "canary-claude" } },
      { name = "lab", preset = "gitlab", host = "lab.test", secrets = { token = "canary-lab" } },
      { name = "gemini", preset = "gemini", host = "gemini.test", secrets = { key = "canary-gemini" } },
      { name = "key", preset = "deepgram", host = "key.test", secrets = { key = "canary-key" } },
      { name = "param", preset = "serpapi", host = "param.test", secrets = { value = "canary-param" } },
      { name = "linear", preset = "linear", host = "linear.test", secrets = { key = "canary-linear" } },
    },
  },
  cases = {
    graphql("another call", [[{"query":"{ viewer { id } }"}]], "", { status = 200,
      upstream = { header = { authorization = "canary-linear" }, body = [[{"query":"{ viewer { id } }"}]] } }),
    graphql("the call", [[{"query":"mutation { apiKeyCreate }"}]], "", denied),
    graphql("the call, escaped", [[{"query":"mutation { apiKey\u0043reate }"}]], "", denied),
    graphql("the call, perhaps", "\31\139\8\0", "Content-Encoding: gzip\r\n", denied),
    { name = "GraphQL: chunked", host = "linear.test",
      send = "POST /graphql HTTP/1.1\r\nHost: linear.test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        .. "6\r\napiKey\r\n6\r\nCreate\r\n0\r\n\r\n", expect = denied },
    { name = "GraphQL: a file, streamed", host = "linear.test",
      send = "POST /upload HTTP/1.1\r\nHost: linear.test\r\nContent-Length: 12\r\n\r\napiKeyCreate", expect = { status = 200 } },
    get("gh.test", "/user?access_token=mine&page=2", "", { status = 200,
      upstream = { line = "GET /user?page=2 HTTP/1.1", header = { authorization = "Bearer canary-gh" }, head_not = "mine" } }),
    get("claude.test", "/v1/models", "X-Api-Key: mine\r\nx_api_key: mine\r\nAnthropic-Version: 2023-06-01\r\n", { status = 200,
      upstream = { header = { authorization = "Bearer canary-claude", ["anthropic-version"] = "2023-06-01" },
                   no_header = "x-api-key", head_not = "mine" } }),
    get("lab.test", "/api/v4/user?private_token=mine&job_token=mine", "Private-Token: mine\r\nCookie: _gitlab_session=mine\r\n", {
      status = 200, upstream = { line = "GET /api/v4/user HTTP/1.1", header = { authorization = "Bearer canary-lab" },
                                 no_header = { "private-token", "cookie" }, head_not = "mine" } }),
    get("lab.test", "/explore", "", { status = 403, error = "path_not_allowed", upstream = "nothing" }),
    get("gemini.test", "/v1beta/models?key=mine&alt=sse", "", { status = 200,
      upstream = { line = "GET /v1beta/models?alt=sse HTTP/1.1", header = { ["x-goog-api-key"] = "canary-gemini" }, head_not = "mine" } }),
    get("gemini.test", "/v1beta/models?%6bey=mine", "", { status = 200, upstream = { head_not = "mine" } }),
    get("key.test", "/v1/projects", "", { status = 200, upstream = { header = { authorization = "Token canary-key" } } }),
    get("param.test", "/search?q=a&api_key=mine", "", { status = 200, upstream = { head_has = "api_key=canary-param", head_not = "mine" } }),
    get("param.test", "/account.json", "", denied),
    post("gh.test", "/repos/o/r/keys", denied),
    post("gh.test", "/repos/o/r/issues", { status = 200 }),
    post("gh.test", "/app/installations/7/access_tokens", denied),
    post("gh.test", "/repos/o/r/actions/runners/registration-token", denied),
    post("gh.test", "/repos/o/r%2factions/runners/../runners/registration%2dtoken", denied),
    post("lab.test", "/api/v4/projects/group%2fproject/access_tokens", denied),
    post("lab.test", "/api/v4/personal_access_tokens/self/rotate", denied),
    post("free.test", "/repos/o/r/keys", { status = 200, upstream = { header = { authorization = "Bearer canary-free" } } }),
  },
}
