--- Paths against a credential restricted to /public: what a server might make of them decides, not how they look.
local cases = {}

local function path(target, status, code, line)
  cases[#cases + 1] = { name = target .. (status == 200 and " passes" or " is refused"), send = "GET " .. target .. " HTTP/1.1\r\nHost: api.test\r\n\r\n",
    expect = { status = status, error = code, upstream = status == 200 and { line = "GET " .. target .. " HTTP/1.1", header = { authorization = "Bearer canary-path" } } or "nothing" } }
end

path("/public", 200)
path("/public/", 200)
path("/public/x?../admin", 200)
path("/public/a/../b", 200)
path("/public/./b", 200)
path("/public/%41", 200)
path("/public/a%2fb", 200)
path("/public//x", 200)
path("/public/x;y=z", 200)
path("/publicity", 403, "path_not_allowed")
path("/admin", 403, "path_not_allowed")
path("/", 403, "path_not_allowed")
path("/PUBLIC/x", 403, "path_not_allowed")
path("/public%00", 400, "ambiguous_path")
path("/public/../admin", 400, "ambiguous_path")
path("/public/%2e%2e/admin", 400, "ambiguous_path")
path("/public/%2E./admin", 400, "ambiguous_path")
path("/public/%252e%252e/admin", 400, "ambiguous_path")
path("/public%2f..%2fadmin", 400, "ambiguous_path")
path("/public/..%2fadmin", 400, "ambiguous_path")
path("/public/..%252fadmin", 400, "ambiguous_path")
path("/public/..%5cadmin", 400, "ambiguous_path")
path("/public/..\\admin", 400, "ambiguous_path")
path("/public\\..\\admin", 400, "ambiguous_path")
path("/public/..;/admin", 400, "ambiguous_path")
path("/public/..;x=y/admin", 400, "ambiguous_path")
path("/public;x/../admin", 400, "ambiguous_path")
path("/admin/../public", 400, "ambiguous_path")
path("//public/x", 400, "ambiguous_path")
path("/public%2fx", 400, "ambiguous_path")
path("/public;x", 400, "ambiguous_path")
path("/%70ublic/x", 400, "ambiguous_path")
path("/public/%zz", 400, "ambiguous_path")

-- Where every reading decides alike, the path goes as it came.
local function free(host, target)
  cases[#cases + 1] = { name = host .. target .. " passes, as every reading decides alike", host = host, send = "GET " .. target .. " HTTP/1.1\r\nHost: " .. host .. "\r\n\r\n",
    expect = { status = 200, upstream = { line = "GET " .. target .. " HTTP/1.1" } } }
end
free("git.test", "/api/v4/projects/group%2Fproj")
free("git.test", "/a%00b%zz")
free("git.test", "/@scope%2fname")
free("git.test", "/a/../b;c//d%252e%5c?x=/..")
free("lab.test", "/api/v4/projects/group%2Fproj")
free("lab.test", "/api/v4/projects/group%2Fproj/repository/files/a%2Eb")
-- A longer prefix beats a shorter one, and the readings must agree on which.
cases[#cases + 1] = { name = "the longer prefix decides", host = "two.test", send = "GET /v1/admin/x HTTP/1.1\r\nHost: two.test\r\n\r\n",
  expect = { status = 200, upstream = { header = { authorization = "Bearer canary-admin" } } } }
cases[#cases + 1] = { name = "the shorter prefix decides elsewhere", host = "two.test", send = "GET /v1/user HTTP/1.1\r\nHost: two.test\r\n\r\n",
  expect = { status = 200, upstream = { header = { authorization = "Bearer canary-user" } } } }
cases[#cases + 1] = { name = "readings that lead to two credentials are refused", host = "two.test", send = "GET /v1/%61dmin/x HTTP/1.1\r\nHost: two.test\r\n\r\n",
  expect = { status = 400, error = "ambiguous_path", upstream = "nothing" } }
cases[#cases + 1] = { name = "/v1 does not cover /v10", host = "two.test", send = "GET /v10 HTTP/1.1\r\nHost: two.test\r\n\r\n",
  expect = { status = 403, error = "path_not_allowed", upstream = "nothing" } }


-- A slash within a segment, where the rule itself says so.
local function within(host, target, status, code)
  local sent = status == 200 and { line = "GET " .. target .. " HTTP/1.1", header = host ~= "open.test" and { authorization = "Bearer canary-one" } or nil }
  cases[#cases + 1] = { name = host .. target .. (status == 200 and " passes" or " is refused") .. ", whose rule has %2F", host = host,
    send = "GET " .. target .. " HTTP/1.1\r\nHost: " .. host .. "\r\n\r\n", expect = { status = status, error = code, upstream = sent or "nothing" } }
end
for _, host in ipairs { "one.test", "open.test", "own.test" } do
  within(host, "/api/v4/projects/acme%2Fsite", 200)
  within(host, "/api/v4/projects/acme%2fsite/issues?state=opened", 200)
  within(host, "/api/v4/projects/acme%2Fsite/repository/files/src%2Fmain%2Ec/raw", 200)
  local plain = host == "own.test"   -- whose rule has plain slashes, and a preset that says where they may be encoded
  for _, target in ipairs { "/api/v4/projects/acme%2Fsite/../../other", "/api/v4/projects/acme%2Fsite%2F..%2Fother", "/api/v4/projects/acme%252Fsite" } do
    within(host, target, plain and 400 or 403, plain and "ambiguous_path" or "path_not_allowed")
  end
  within(host, "/api/v4/projects/acme%2Fother", 403, "path_not_allowed")
end
within("open.test", "/@scope%2fname", 200)
within("open.test", "/@scope%2fname/../x", 403, "path_not_allowed")

return {
  shared = {
    hosts = { "api.test", "git.test", "lab.test", "two.test", "one.test", "open.test", "own.test" },
    domains = { { host = "open.test", path = { "/api/v4/projects/acme%2Fsite", "/@scope%2Fname" } } },
    credentials = {
      { name = "api", type = "bearer", host = "api.test", path = "/public", secrets = { token = "canary-path" } },
      { name = "git", type = "bearer", host = "git.test", secrets = { token = "canary-git" } },
      { name = "lab", type = "bearer", host = "lab.test", path = "/api", secrets = { token = "canary-lab" } },
      { name = "one", type = "bearer", host = "one.test", path = "/api/v4/projects/acme%2Fsite", secrets = { token = "canary-one" } },
      { name = "own", preset = "gitlab", host = "own.test", path = "/api/v4/projects/acme/site", secrets = { token = "canary-one" } },
      { name = "user", type = "bearer", host = "two.test", path = "/v1", secrets = { token = "canary-user" } },
      { name = "admin", type = "bearer", host = "two.test", path = "/v1/admin", secrets = { token = "canary-admin" } },
    },
  },
  cases = cases,
}
