--- Operators who sign in to the page with the organisation's OpenID provider, as people do at the door (web.openid). The page may stand on a
-- loopback address, where cookies of other ports' servers are ours too: so the cookie of a sign-in that is under way has a random path, as the
-- session's has, and what it stands for is kept here. The answer comes to one address, which the provider knows, and goes on to that path.
local access = require "web.access"
local openid = require "web.openid"
local M = {}

local WAITING_MAX = 32      -- sign-ins under way: one of the address with the most makes room
local AFTER_MAX = 200       -- bytes of a link, or of a place to go on to: what is longer is none of ours
local LIFE = 600            -- s for a person at the provider's page

M.provider = openid.provider

local function question(client, site, method, path) return { now = site.time.wall(), method = method, path = path, peer = client.at } end

-- Requests go as the running proxy's do.
local function configured(site) return require("cli.outside").configure { home = site.home, host = require "host" } end

--- POST /login/oidc: the provider's address, and the cookie | nil, what to say. after: { next | link }
function M.leave(site, client, after)
  local p = openid.provider()
  local m = p and configured(site) and openid.metadata(question(client, site, "POST", "/login/oidc"), p)
  if not m then return nil, "The organisation's sign-in does not answer." end
  for name, text in pairs(after) do
    if #text > AFTER_MAX then after[name] = nil end
  end
  site.waiting = site.waiting or {}
  require("web.waiting").room(site.waiting, site.now(), WAITING_MAX)
  local path, w = access.random(), { key = access.random(), till = site.now() + LIFE, of = require("web.sessions").network(client.at), after = after,
    asked = { redirect_uri = client.origin .. "/login/oidc/callback", state = access.random(), nonce = access.random(), verifier = access.random() } }
  site.waiting[path] = w
  return openid.address(p, m, w.asked), ("sallyport-oidc=%s; Path=/login/oidc/%s/; HttpOnly; SameSite=Strict; Max-Age=%d%s"):format(w.key, path, LIFE,
    client.origin:find("^https:") and "; Secure" or "")
end

--- GET /login/oidc/callback: the address to go on to, where the cookie is | nil: nobody waits for that answer.
function M.back(site, params)
  for path, w in pairs(site.waiting or {}) do
    if params and site.now() < w.till and not w.came and access.same(w.asked.state, params.state) then
      w.came = params
      return "/login/oidc/" .. path .. "/"
    end
  end
end

--- GET /login/oidc/PATH/ with its cookie, once: an operator's record, and what to go on with | nil, what to say.
function M.finish(site, client, path, key)
  local w = site.waiting and site.waiting[path]
  if not w or not w.came or site.now() >= w.till or not access.same(w.key, key) then return nil, "That sign-in was not begun here, or too long ago. Begin again." end
  site.waiting[path] = nil
  local q, p = question(client, site, "GET", "/login/oidc/callback"), openid.provider()
  local m = p and configured(site) and openid.metadata(q, p)
  if not m then return nil, "The organisation's sign-in does not answer." end
  local c, why = openid.judge(q, p, m, w.asked, w.came)
  if not c then return nil, why end
  local function may(user) return user.operator == true end
  local context = { by = c.sub, door = "page", page = "GET /login/oidc/callback", client = client.at }
  local user = openid.user_of(q, p, c, w.after.link, may, context)
  if not user or not may(user) then return nil, "Nobody has let you in here yet. Ask who runs this box." end
  return user, w.after
end

return M
