--- GitHub App: installation tokens, minted with just the repositories and permissions that are named.
-- docs.github.com/apps, "Authenticating as a GitHub App installation": a JWT signed with the App's key (RS256) asks for
-- a token of an hour. The API gets it as Bearer; git and LFS over https as Basic, user x-access-token.
--
-- For: GitHub and GitHub Enterprise: gh, git, Octokit, as the App's bot and not as a person.
--   sallyport credential add gh --type github_app app_id=12345 account=my-org private_key=@app.pem \
--     repositories="site docs" permissions.contents=write permissions.pull_requests=write
--   sallyport credential add ghe --type github_app --host ghe.example.com api_url=https://ghe.example.com/api/v3 \
--     app_id=7 installation_id=42 private_key=@app.pem
-- Fields: app_id, the App's id or client id; installation_id, or account, whose installation it is: a user, an
--         organization, or OWNER/REPO; private_key, the PEM that GitHub gave (secret); repositories, names without their
--         owner, all of the installation unless named; permissions.NAME=read|write|admin, all that the App has unless
--         named; api_url, of GitHub Enterprise; app_reads=yes, for SDKs that look for their installation themselves
--         (@octokit/app with a `credential sandbox-file`): what the App is and where it is installed, by GET on six
--         paths, is asked with the App's own token, which tells of its other installations too. It lives nine minutes,
--         so both are made anew every five.
-- Hosts are GitHub's unless --host says else. `env` sets GH_TOKEN to a placeholder, so that gh runs, and
-- GIT_TERMINAL_PROMPT=0, so that git fails where it would ask a person.
local CLOCK_SLACK = 60     -- s: GitHub refuses an iat of the future; its advice
local JWT_LIFE = 540       -- s: ten minutes are the most it takes, its clock's
local TOKEN_LIFE = 3600    -- s: where expires_at cannot be read
local ACCEPT = "application/vnd.github+json"
local OVERRIDES = {        -- headers that name another method or path than the request line
  "x-http-method-override", "x-http-method", "x-method-override", "x-original-method", "x-forwarded-method",
  "x-original-url", "x-original-uri", "x-rewrite-url", "x-rewrite-uri",
}
local VERSION = "2022-11-28"

local function base_of(cred) return (cred.api_url:gsub("/+$", "")) end

-- The App's own token. GitHub takes its id as a number, its client id as a text.
local function app_jwt(cred, now)
  return sign.jwt {
    alg = "RS256", key = cred.private_key,
    claims = { iss = math.tointeger(tonumber(cred.app_id)) or cred.app_id, iat = now - CLOCK_SLACK, exp = now + JWT_LIFE },
  }
end

-- What only the App itself may ask, and by which an SDK finds its installation. GET changes nothing.
local app_paths = {
  "^/app$", "^/app/installations$", "^/app/installations/%d+$", "^/repos/([^/]+)/([^/]+)/installation$",
  "^/orgs/([^/]+)/installation$", "^/users/([^/]+)/installation$",
}

-- A name as GitHub has them: no second reading of the path, and no dots that lead elsewhere.
local function plain_name(s) return s == nil or s == "" or s:find("^[%w._-]+$") and not s:find("^%.+$") end

local function asks_as_app(req, cred)
  local host, base = base_of(cred):match("^%a+://([^/:]+)[^/]*(.*)$")
  if not cred.app_reads or req.host ~= host:lower() or req.method ~= "GET" and req.method ~= "HEAD" then return false end
  if req.path:sub(1, #base) ~= base then return false end
  for _, pattern in ipairs(app_paths) do
    local found, _, one, two = req.path:sub(#base + 1):find(pattern)
    if found then return plain_name(one) and plain_name(two) end
  end
  return false
end

local function judge(answer, not_found)
  local detail = { status = answer.status, retry_after = answer.retry_after }
  if answer.status == 429 or answer.status >= 500 or answer.retry_after then return nil, "unavailable", detail end
  if answer.status == 404 then return nil, not_found, detail end
  if answer.status == 422 then return nil, "not_granted", detail end
  if answer.status == 401 then return nil, "app_refused", detail end
  return nil, "refused", detail
end

-- GitHub's number for the installation | nil, code, detail. An organization has one door, a person another.
local function installation_of(cred, call)
  if cred.installation_id then return cred.installation_id end
  local paths = { "/orgs/" .. cred.account, "/users/" .. cred.account }
  if cred.account:find("/", 1, true) then paths = { "/repos/" .. cred.account } end
  local code, detail
  for _, path in ipairs(paths) do
    local answer
    answer, code, detail = call("GET", path .. "/installation", nil, { id = "number" })
    if not answer then return nil, code, detail end
    if answer.status == 200 and math.type(answer.values.id) == "integer" then return answer.values.id end
    _, code, detail = judge(answer, "no_installation")
    if answer.status ~= 404 then break end
  end
  return nil, code, detail
end

local function mint(method, path, what, host)
  return { method = method, path = path, what = what, host = host }
end

-- The API's paths on api.github.com, and under /api/v3 on an Enterprise host.
local calls = {
  { "POST", "/app/installations/*/access_tokens", "an installation token" },
  { "POST", "/app-manifests/*/conversions", "an App with its key" },
  { "POST", "/applications/*/token", "an OAuth token" },
  { "PATCH", "/applications/*/token", "an OAuth token" },
  { "POST", "/applications/*/token/scoped", "an OAuth token" },
  { "POST", "/repos/*/*/actions/runners/registration-token", "a token that registers a runner" },
  { "POST", "/repos/*/*/actions/runners/remove-token", "a token that removes a runner" },
  { "POST", "/repos/*/*/actions/runners/generate-jitconfig", "a runner's configuration, with its token" },
  { "POST", "/orgs/*/actions/runners/registration-token", "a token that registers a runner" },
  { "POST", "/orgs/*/actions/runners/remove-token", "a token that removes a runner" },
  { "POST", "/orgs/*/actions/runners/generate-jitconfig", "a runner's configuration, with its token" },
  { "POST", "/enterprises/*/actions/runners/registration-token", "a token that registers a runner" },
  { "POST", "/enterprises/*/actions/runners/remove-token", "a token that removes a runner" },
  { "POST", "/enterprises/*/actions/runners/generate-jitconfig", "a runner's configuration, with its token" },
  { "POST", "/repos/*/*/keys", "a deploy key" },
  { "POST", "/user/keys", "an SSH key" },
  { "GET", "/copilot_internal/v2/token", "a Copilot token" },
}
local rows = {}
for _, c in ipairs(calls) do
  local by_number = c[2]:gsub("^/repos/%*/", "/repositories/"):gsub("^/orgs/", "/organizations/")  -- as Link headers have them
  for _, path in ipairs { c[2], by_number ~= c[2] and by_number or nil } do
    rows[#rows + 1] = mint(c[1], path, c[3])
    rows[#rows + 1] = mint(c[1], "/api/v3" .. path, c[3])
  end
end
rows[#rows + 1] = mint(nil, "/login/oauth/access_token", "an OAuth token")
rows[#rows + 1] = mint(nil, "/login/device/code", "a device login")

local function githubs(host) return ("." .. host):find("%.github%.com$") ~= nil or host:find("%.githubusercontent%.com$") ~= nil end

return {
  kind   = "type",
  api    = 1,
  name   = "github_app",
  title  = "GitHub App installation",
  hosts  = { "api.github.com", "uploads.github.com", "github.com", "codeload.github.com", "raw.githubusercontent.com" },
  env    = { name = "GH_TOKEN", shape = "ghs_{36}", with = { GIT_TERMINAL_PROMPT = "0" } },
  fields = {
    { name = "app_id", required = true, help = "The App's id, or its client id (Iv…)" },
    { name = "installation_id", type = "integer", min = 1, help = "As the installation's page has it in its URL" },
    { name = "account", help = "In its place: the user, the organization, or OWNER/REPO that installed it" },
    { name = "private_key", type = "pem", required = true, secret = true, help = "The App's PEM: private_key=@FILE" },
    { name = "repositories", type = "list", help = "Names without owner; all of the installation unless named" },
    { name = "permissions", type = "map", help = "permissions.contents=read; all that the App has unless named" },
    { name = "api_url", type = "url", base = true, default = "https://api.github.com",
      help = "Of GitHub Enterprise: https://HOST/api/v3" },
    { name = "app_reads", type = "boolean", default = false, help = "GET /app and where it is installed, as the App itself" },
  },
  mint = rows,

  validate = function(cred, hosts)
    local why = sign.key_problem("RS256", cred.private_key)
    if why then return nil, "private_key", why end
    if not cred.app_id:find("^[%w._-]+$") then return nil, "app_id", "is a number, or a client id such as Iv23liAbC" end
    if not cred.installation_id == not cred.account then
      return nil, "installation_id", cred.account and "and account are both given: one of them says whose installation it is"
        or "is missing, and so is account: one of them says whose installation it is"
    end
    if cred.account and not cred.account:find("^[%w][%w._-]*$") and not cred.account:find("^[%w][%w._-]*/[%w._-]+$") then
      return nil, "account", "is the name of a user or an organization, or OWNER/REPO"
    end
    -- an Enterprise server's tokens are not for GitHub's hosts, nor the other way round
    local at, known = cred.api_url:match("^%a+://([^/:]+)"):lower(), not hosts
    for _, h in ipairs(hosts or {}) do
      known = known or h:find("$", 1, true) or githubs(h) == githubs(at)
    end
    if not known then return nil, "api_url", ("is on %s, which is not among its hosts: --host %s"):format(at, at) end
    for _, name in ipairs(cred.repositories or {}) do
      if not name:find("^[%w._-]+$") then
        return nil, "repositories", ("has '%s': names stand without their owner"):format(name:sub(1, 60))
      end
    end
    for name, level in pairs(cred.permissions or {}) do
      if not name:find("^[%l_]+$") then return nil, "permissions", ("has no '%s': contents, issues, …"):format(name:sub(1, 40)) end
      if level ~= "read" and level ~= "write" and level ~= "admin" then
        return nil, "permissions", ("has '%s' as something other than read, write or admin"):format(name)
      end
    end
    return true
  end,

  -- What the App's own token goes out with is a GET of that path to every server on the way, too.
  strip = function(cred)
    if not cred.app_reads then return {} end
    return { headers = OVERRIDES, query = { "_method" } }
  end,

  -- RFC 6750 2.2 and 2.3: where else a bearer token may stand.
  carriers = { query = { "access_token" } },

  -- api.HOST and uploads.HOST are the API, and so is /api/ of an Enterprise host; everything else is git's.
  apply = function(req, cred)
    local token = asks_as_app(req, cred) and cred.state.app_token or cred.state.access_token
    if req.host:find("^api%.") or req.host:find("^uploads%.") or req.path:find("^/api/") then
      req.headers:set("authorization", "Bearer " .. token)
    else
      req.headers:set("authorization", "Basic " .. secret.base64("x-access-token:" .. token))
    end
  end,

  -- For SDKs that mint the installation's token themselves (@octokit/auth-app): a PEM of their own, whose JWT is
  -- answered with a placeholder.
  stand_in = {
    keys = true,
    -- The second is what it was called until 2020.
    url = function(cred)
      local base = cred.api_url:gsub("/$", "")
      return { base .. "/app/installations/*/access_tokens", base .. "/installations/*/access_tokens" }
    end,
    file = function(_, parts) return parts.private_key end,
    answer = function(parts)
      return { token = parts.access_token, expires_at = time.iso(parts.expires_at), permissions = { metadata = "read" },
               repository_selection = "selected" }, 201
    end,
  },

  refresh = function(cred, net, deadline)
    local now = time.wall()
    local app = app_jwt(cred, now)
    if not app then return nil, "bad_key" end
    local function call(method, path, body, expect)
      local headers = {
        { "accept", ACCEPT }, { "authorization", "Bearer " .. app }, { "x-github-api-version", VERSION },
        { "user-agent", "sallyport" }, body and { "content-type", "application/json" },
      }
      return net.request({ method = method, url = base_of(cred) .. path, headers = headers, body = body, expect = expect },
        deadline)
    end
    local id, code, detail = installation_of(cred, call)
    if not id then return nil, code, detail end
    local want = {}
    if #(cred.repositories or {}) > 0 then want.repositories = cred.repositories end
    if next(cred.permissions or {}) then want.permissions = cred.permissions end
    local answer
    answer, code, detail = call("POST", ("/app/installations/%d/access_tokens"):format(id), json.build(want),
      { token = "secret", expires_at = "string" })
    if not answer then return nil, code, detail end
    if answer.status ~= 201 and answer.status ~= 200 then return judge(answer, "no_installation") end
    if answer.malformed then return nil, "malformed" end
    if not answer.values.token then return nil, "no_access_token" end
    local ends = answer.values.expires_at and time.parse(answer.values.expires_at)
    ends = ends or now + TOKEN_LIFE
    if not cred.app_reads then return { secrets = { access_token = answer.values.token }, expires_at = ends } end
    return { secrets = { access_token = answer.values.token, app_token = app }, expires_at = math.min(ends, now + JWT_LIFE) }
  end,

  examples = {
    { cred = { app_id = "1", installation_id = 2, private_key = "k", state = { access_token = "ghs_1" } },
      req  = { url = "https://api.github.com/user/repos", headers = { authorization = "token placeholder" } },
      want = { headers = { authorization = "Bearer ghs_1" } } },
    { cred = { app_id = "1", installation_id = 2, private_key = "k", state = { access_token = "ghs_1" } },
      req  = { url = "https://github.com/o/r.git/info/refs?service=git-upload-pack" },
      want = { headers = { authorization = "Basic eC1hY2Nlc3MtdG9rZW46Z2hzXzE=" } } },
    { cred = { app_id = "1", installation_id = 2, private_key = "k", api_url = "https://ghe.example.com/api/v3",
               state = { access_token = "ghs_1" } },
      req  = { url = "https://ghe.example.com/api/graphql", method = "POST", body = "{}" },
      want = { headers = { authorization = "Bearer ghs_1" } } },
    { cred = { app_id = "1", installation_id = 2, private_key = "k", app_reads = true, state = { access_token = "ghs_1", app_token = "a" } },
      req  = { url = "https://api.github.com/repos/o/r/installation?_method=DELETE", headers = { ["x-http-method-override"] = "DELETE" } },
      want = { url = "https://api.github.com/repos/o/r/installation", headers = { authorization = "Bearer a", ["x-http-method-override"] = false } } },
    { cred = { app_id = "1", installation_id = 2, private_key = "k", app_reads = true, state = { access_token = "ghs_1", app_token = "a" } },
      req  = { url = "https://api.github.com/app", method = "DELETE" }, want = { headers = { authorization = "Bearer ghs_1" } } },
    { cred = { app_id = "1", installation_id = 2, private_key = "k", api_url = "https://ghe.example.com/api/v3",
               state = { access_token = "ghs_1" } },
      req  = { url = "https://ghe.example.com/o/r/info/lfs/objects/batch", method = "POST", body = "{}" },
      want = { headers = { authorization = "Basic eC1hY2Nlc3MtdG9rZW46Z2hzXzE=" } } },
  },
}
