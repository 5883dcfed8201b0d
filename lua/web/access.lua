--- Who may do what at the door: users, tenants, roles, scopes, sk_ keys, and the hashes that the store keeps of what they show.
-- Records (databases of proxy.c, section store):
--   user     u/NAME { name, tenants = { tenant = role }, disabled, password, totp, … }; r/NAME { name, scopes }: a role
--   agent    a/NAME { kind = "tenant", … }: a tenant; its bundles and variables are what a connection acts with
--   gateway  NAME { name, url, read = { tool patterns }, scopes = { { name, says, tools } } }
--   client   c/ID { client = ID, name, redirect_uris, … }
--   grant    g/ID { connection = ID, user, user_id, tenant, tenant_id, client, gateway, scopes, … }: a connection; k/HASH: an sk_ key
--   token    f/ID the tokens of a connection, c/ID its code, s/HASH a session, l/ID a user's link; not listed in the table of
--            records: what grants something is the grant, the user and the tenant, each of which is looked at
local M = {}

--- Scopes from the start, and what each allows, for the consent page.
M.scopes = {
  { name = "tools:read", says = "See the list of tools, and use those that only read" },
  { name = "tools:execute", says = "Use tools" },
  { name = "resources:read", says = "Read resources" },
  { name = "prompts:read", says = "Read prompts" },
  { name = "offline_access", says = "Stay connected while you are away" },
}

local builtin = {
  viewer = { "tools:read", "resources:read", "prompts:read" },
  member = { "tools:read", "resources:read", "prompts:read", "tools:execute" },
  admin = true,         -- all scopes of its tenant's gateways; nothing over the box: no command or page asks for a role
}

--- Names of the roles that are there from the start.
M.builtin_roles = { "viewer", "member", "admin" }

local function store() return require "store" end

--- 256 bits of a text under the store's key: nobody without it can find the text, or another with the same. label: what
-- the text is, so that one kind's hash is never another's.
function M.hash(label, text) return (assert(store().placeholder("{43}", "door/" .. label .. "/" .. text))) end

--- Whether two texts are equal, in a time that tells nothing of where they differ.
function M.same(a, b) return type(a) == "string" and type(b) == "string" and M.hash("same", a) == M.hash("same", b) end

--- 256 random bits, base64url; and 80 bits as hex digits, for an id.
function M.random() return (require("host").random_token "") end
function M.id() return (select(2, require("host").random_token ""):sub(1, 20)) end

-- The ids of one user's connections begin alike, so that theirs are found without a look at everybody's.
local function prefix_of(user) return require("host").sha256_hex(M.hash("user", user.id)):sub(1, 8) end
function M.connection_id(user) return prefix_of(user) .. M.id() end

--- The grants of a user's record, a list.
function M.connections_of(user)
  local out = {}
  for _, g in M.each("grant", "g/" .. prefix_of(user)) do
    if g.user == user.name and g.user_id == user.id then out[#out + 1] = g end
  end
  return out
end

--- A scope's name (RFC 6749 3.3): text, or nil and why.
function M.scope_name(s)
  if #s > 64 or not s:find("^[%w][%w:._/-]*$") then return nil, "a scope is letters, digits and : . _ / -, at most 64" end
  return s
end

--- A user's name, an e-mail address as a rule: lower case, or nil and why.
function M.user_name(s)
  s = s:lower()
  if #s > 200 or not s:find("^[%w][%w._+@-]*$") or select(2, s:gsub("@", "")) > 1 then
    return nil, "a user is an e-mail address, or a name of letters, digits and . _ + -"
  end
  return s
end

--- The role's record: { name, scopes = list | true }; nil: there is none.
function M.role(name)
  if type(name) ~= "string" then return nil end
  if builtin[name] then return { name = name, scopes = builtin[name] } end
  return (store().peek("user", "r/" .. name))
end

--- Does the role allow the scope? offline_access is about how long, not about what.
function M.allows(role, scope)
  if not role then return false end
  if role.scopes == true or scope == "offline_access" then return true end
  for _, s in ipairs(role.scopes) do
    if s == scope then return true end
  end
  return false
end

--- Of a list of scopes those that the role allows, in order.
function M.allowed(role, scopes)
  local out = {}
  for _, s in ipairs(scopes) do out[#out + 1] = M.allows(role, s) and s or nil end
  return out
end

--- The tenant's record while it may act; nil otherwise.
function M.tenant(name, now)
  local a = type(name) == "string" and store().peek("agent", "a/" .. name)
  if not a or a.kind ~= "tenant" or a.revoked or a.expires_at and a.expires_at <= now then return nil end
  return a
end

--- The user's record while they may act; nil otherwise.
function M.user(name)
  local u = type(name) == "string" and store().peek("user", "u/" .. name)
  return u and not u.disabled and u or nil
end

function M.gateway(name) return type(name) == "string" and name ~= "" and #name <= 64 and store().peek("gateway", name) or nil end

--- Every record below a prefix that is whole: for key, record in each(db, prefix).
function M.each(db, prefix)
  local page, at, more = {}, 0, true
  return function()
    while true do
      at = at + 1
      if at > #page then
        if not more then return nil end
        page, at = store().each(db, prefix, page[#page] and page[#page].key) or {}, 1
        more = #page == 256
      end
      local row = page[at]
      if not row then return nil end
      if row.record then return row.key, row.record end
    end
  end
end

--- All scopes that a gateway knows: { { name, says } … }.
function M.known(gateway)
  local out = {}
  table.move(M.scopes, 1, #M.scopes, 1, out)
  for _, s in ipairs(gateway and gateway.scopes or {}) do out[#out + 1] = s end
  return out
end

--- https://box.example.org: how the world reaches the door, the issuer (RFC 8414 2); nil: not set.
function M.issuer()
  if M.public then return M.public end
  local kept = store().get("meta", "set/public-url")
  return kept and kept.value
end

--- A one-time link for a user's record, and the operations that keep its hash; an older one ends with it. The user's record counts links
-- that were made or used, so that none counts again whose record somebody puts back on the disk. base: the page of `serve --admin`, in the place of the door.
M.LINK_LIFE = 86400
function M.link(user, now, base)
  local secret = M.random()
  user.links = (user.links or 0) + 1
  return ("%s/login?link=%s.%s"):format(base or M.issuer() or "", user.id, secret), {
    { op = "put", db = "token", key = "l/" .. user.id,
      plain = { user = user.name, hash = M.hash("link", secret), n = user.links, expires_at = now + M.LINK_LIFE } },
    { op = "put", db = "user", key = "u/" .. user.name, plain = user, version = user.version },
  }
end

--- Operations that end a connection: its grant, its tokens, its code.
function M.ending(id)
  return {
    { op = "del", db = "grant", key = "g/" .. id }, { op = "del", db = "token", key = "f/" .. id },
    { op = "del", db = "token", key = "c/" .. id }, { op = "del", db = "token", key = "v/" .. id },
  }
end

return M
