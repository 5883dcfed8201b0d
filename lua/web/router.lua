--- Which function answers which address of the door.
local page = require "web.page"
local M = {}

local PRM = "/.well-known/oauth-protected-resource"

local function oauth(name) return function(q) return require("web.oauth")[name](q) end end
local function people(name) return function(q) return require("web.people")[name](q) end end

local function openid(name) return function(q) return require("web.openid")[name](q) end end

local routes = {
  ["/.well-known/oauth-authorization-server"] = { GET = oauth "server" },
  ["/oauth/register"] = { POST = function(q) return require("web.client").register(q) end },
  ["/oauth/authorize"] = { GET = oauth "authorize" },
  ["/oauth/token"] = { POST = oauth "token" },
  ["/oauth/revoke"] = { POST = oauth "revoke" },
  ["/oauth/introspect"] = { POST = oauth "introspect" },
  ["/consent"] = { POST = oauth "decide" },
  ["/login"] = { GET = people "login", POST = people "sign_in" },
  ["/login/totp"] = { GET = people "factor", POST = people "set_factor" },
  ["/login/oidc"] = { GET = openid "start", POST = openid "bind" },
  ["/login/oidc/callback"] = { GET = openid "callback" },
  ["/logout"] = { POST = people "logout" },
  ["/approvals"] = { GET = function(q) return require("web.approving").list(q) end },
  ["/connections"] = { GET = people "connections", POST = people "disconnect" },
}

-- What a program reads, or, where a person looks on, a page that says it.
local function nothing(q, status, out, title, text)
  if not (q.header "accept" or ""):find("text/html", 1, true) then return out end
  local shown = page.says(status, title, text)
  for _, f in ipairs(out.headers) do
    if f[1] == "Allow" then shown.headers[#shown.headers + 1] = f end
  end
  return shown
end

local function absent(q) return nothing(q, 404, page.json(404, { error = "not_found" }), "Nothing here", "There is nothing at this address. What you are connected with is at /connections.") end

--- q -> { status, headers, body } | { forward }: lua/web/door.lua has what q is. Yields.
function M.handle(q)
  local access = require "web.access"
  access.public = q.public      -- `serve --public-url` counts before the store's
  if not access.issuer() then return page.json(404, { error = "not_found" }) end
  local name = q.path:match("^/mcp/([^/]+)$")
  if name then return require("web.verify").check(q, name) end
  name = q.path:sub(1, #PRM) == PRM and q.path:sub(#PRM + 1)
  name = name and (name == "" and "" or name:match("^/mcp/([^/]+)$"))
  local one = q.path:find("^/approvals/") and function(p) return require("web.approving").one(p) end
  local route = one and { GET = one, POST = one } or name and { GET = function() return require("web.oauth").resource(name) end } or routes[q.path]
  if not route then return absent(q) end
  local f = route[q.method == "HEAD" and "GET" or q.method]
  if not f then
    return nothing(q, 405, page.allow(route.GET and route.POST and "GET, HEAD, POST" or route.GET and "GET, HEAD" or "POST"), "Not this way",
      "This address takes other requests than this one. Go back, and try again from the page before.")
  end
  return f(q)
end

--- A stream of { connection, tenant, asked } that goes on: true while these still stand.
function M.again(info) return require("web.verify").stands(info.connection, info.tenant, info.asked) end

return M
