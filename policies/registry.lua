--- A container registry: a user name and a password, which are shown where the registry trades them for a bearer, and nowhere else.
-- "Token Authentication Specification" and "OAuth2 Token Authentication" of the CNCF's Distribution project: /v2/ answers 401 with
-- the address of a token endpoint (the realm); the client shows it the password and gets a bearer for one repository.
--
-- For: Docker Hub, ghcr.io, Quay, GitLab, Harbor, Artifact Registry, ACR, Artifactory, and registries of your own.
--   sallyport credential add reg --type registry --host registry.example.com --host auth.example.com username=me password=@token.txt
-- Fields: username, password (secret); basic: the registry has no token endpoint (ECR, Nexus), and clients need no login.
-- The client may log in with any password: it is replaced. At the token endpoint a GET gets Basic, and a POST with grant_type=password
-- gets both in its form. The bearer that comes back is sealed: the client gets a text that opens at the hosts of this credential alone.
-- Below /v2/ a request goes on with that bearer, or with Basic where the client shows Basic itself, because the registry asked for it;
-- else with nothing: ghcr.io answers a password there with 403, and no challenge. Blobs come from hosts of their own, by signed addresses.
local FORM = "application/x-www-form-urlencoded"

-- Where registries have their token endpoints. A path of the API that ends so, a tag of that name, has four segments or more, and another
-- word before it. `seal` has a row for each path that is_endpoint takes: what they answer never goes on as it is.
local BEFORE = { v2 = true, registry = true, ["docker-v2"] = true, ["redhat-docker-v2"] = true }

local function is_endpoint(path)
  path = path:gsub("/$", "")
  if path:find("[^%w/._-]") or path:find("//", 1, true) or path:find("/%.") then return false end
  local before, last = path:match("^(.*)/(%l+)$")
  if last ~= "token" and last ~= "auth" then return path == "/proxy_auth" end
  return select(2, before:gsub("/", "")) <= 2 or BEFORE[before:match("[^/]*$")] == true
end

local rows = {}
local function row(path)
  rows[#rows + 1] = { method = { "GET", "POST" }, path = path, what = "a registry's bearer", members = { { "token", "access_token" } },
    optional = { "refresh_token" }, ttl = "expires_in", opens = { "authorization", "form=refresh_token" }, expired = 401, default = true }
end
for _, lead in ipairs { "", "/*", "/*/*", "/**/v2", "/**/registry", "/**/docker-v2", "/**/redhat-docker-v2" } do
  row(lead .. "/token")
  row(lead .. "/auth")
end
row "/proxy_auth"

local function is_form(req)
  return req.method == "POST" and req.has_body and (req.headers:get("content-type") or ""):lower():find(FORM, 1, true) == 1
end

return {
  kind   = "type",
  api    = 1,
  name   = "registry",
  title  = "Container registry: a login, traded for sealed bearers",
  fields = {
    { name = "username", default = "", help = "User name; not a secret, it may be shown" },
    { name = "password", secret = true, required = true, help = "Password or access token" },
    { name = "basic", type = "boolean", default = false, help = "The registry takes the password itself, with each request (WWW-Authenticate: Basic)" },
  },
  seal = rows,

  -- Who asks for a refresh token is given none: the client keeps its placeholder, which is good for longer. And a layer that lies in
  -- another repository is uploaded, not mounted from there (end-11 of the OCI's distribution specification): no path says from where.
  strip = { query = { "offline_token", "mount", "from" }, form = { "access_type" } },

  validate = function(cred)
    -- RFC 7617 section 2: the first colon ends the user name.
    if cred.username:find(":", 1, true) then return nil, "username", "has a ':' in it, where the user name would end" end
    return true
  end,

  body = function(req) return is_endpoint(req.path) and is_form(req) and { max = 65536 } or nil end,

  apply = function(req, cred)
    local basic = "Basic " .. secret.base64(cred.username .. ":" .. cred.password)
    if not is_endpoint(req.path) then
      local shown = req.stripped.headers.authorization or ""
      if req.path:find("^/v2/") and (cred.basic or shown:lower():find("^basic ")) then req.headers:set("authorization", basic) end
      return true
    end
    if req.method == "GET" or req.method == "HEAD" then return req.headers:set("authorization", basic) end
    -- Another grant brings what it needs: a body in which a sealed text was opened is no string any more.
    local grants = is_form(req) and type(req.body) == "string" and form.values(req.body, "grant_type") or {}
    if #grants ~= 1 or grants[1] ~= "password" then return true end
    for _, pair in ipairs { { "username", cred.username }, { "password", cred.password } } do
      local ok, code = req:splice_form(pair[1], pair[2])
      if not ok then return nil, "its form cannot be read", code == "no_room" and "injection_unavailable" or "bad_request" end
    end
  end,

  examples = {
    { cred = { username = "me", password = "p" }, req = { url = "https://auth.example.com/token?service=r&scope=repository:a/b:pull",
        headers = { authorization = "Basic bWU6cGxhY2Vob2xkZXI=" } },
      want = { headers = { authorization = "Basic bWU6cA==" } } },
    { cred = { username = "me", password = "p" }, req = { url = "https://auth.example.com/token?service=r" },
      response = { body = { token = "t", access_token = "t", expires_in = 300 } }, want = { sealed = { token = 300, access_token = 300 } } },
    { cred = { username = "me", password = "p" }, req = { url = "https://r.example.com/v2/a/manifests/token" }, want = { sealed = false } },
    { cred = { username = "me", password = "p" }, req = { url = "https://auth.example.com/token?service=r" },
      want = { headers = { authorization = "Basic bWU6cA==" } } },
    { cred = { username = "me", password = "p" }, req = { url = "https://r.example.com/v2/" },
      want = { headers = { authorization = false } } },
    { cred = { username = "me", password = "p" }, req = { url = "https://r.example.com/v2/", headers = { authorization = "Basic bWU6eA==" } },
      want = { headers = { authorization = "Basic bWU6cA==" } } },
    { cred = { username = "me", password = "p", basic = true }, req = { url = "https://r.example.com/v2/" },
      want = { headers = { authorization = "Basic bWU6cA==" } } },
    { cred = { username = "me", password = "p" }, req = { url = "https://r.example.com/v2/a/manifests/token", headers = { authorization = "Bearer x" } },
      want = { headers = { authorization = false } } },
    { cred = { username = "me", password = "p" }, req = { url = "https://r.example.com/auth/realms/rhcc/protocol/redhat-docker-v2/auth?service=r" },
      want = { headers = { authorization = "Basic bWU6cA==" } } },
    { cred = { username = "me", password = "p" }, req = { method = "POST", url = "https://r.example.com/v2/a/blobs/uploads/?mount=sha256:00&from=b" },
      want = { url = "https://r.example.com/v2/a/blobs/uploads/" } },
    { cred = { username = "me", password = "p" }, req = { url = "https://r.example.com/v2/../token" }, want = { headers = { authorization = false } } },
    { cred = { username = "me", password = "p&" }, req = { method = "POST", url = "https://r.example.com/oauth2/token",
        headers = { ["content-type"] = FORM }, body = "grant_type=password&service=r&username=me&password=placeholder&scope=a" },
      want = { headers = { authorization = false }, body = "grant_type=password&service=r&username=me&password=p%26&scope=a" } },
    { cred = { username = "me", password = "p" }, req = { method = "POST", url = "https://r.example.com/oauth2/token",
        headers = { ["content-type"] = FORM }, body = "grant_type=refresh_token&refresh_token=x" },
      want = { headers = { authorization = false }, body = "grant_type=refresh_token&refresh_token=x" } },
  },
}
