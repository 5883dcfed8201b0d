--- Signing in with the organisation's OpenID provider (OpenID Connect Core 1.0, code flow with PKCE), at the door and, for operators, at
-- the page (web.desk_openid), which has its own half of what is kept meanwhile. At the door nothing is kept between the two halves
-- but cookies: state, nonce and verifier follow from the browser's own cookie and from what chance made of the state.
local access = require "web.access"
local page = require "web.page"
local sessions = require "web.sessions"
local M = {}

local CACHE_S, AGAIN_S, SKEW_S = 300, 60, 60      -- a document is kept; keys are looked for again after so long; clocks differ
local FETCH_MS, DOCUMENT_MAX, NEXT_MAX = 10000, 256 << 10, 2700
local NEXT = "__Host-sallyport-next"

local function now_ms() return require("time").now() end

--- The provider as it is set: { value = issuer, client_id, emails, only, secrets } | nil
function M.provider() return (require("store").get("meta", "set/login-oidc")) end

local function wrong(text) return page.says(403, "That sign-in did not work", text) end

local documents = {}        -- { [url] = { json, at } }: two for a provider

local function request(q, p, spec)
  spec.exact, spec.addresses, spec.max = true, p.address and { p.address } or nil, DOCUMENT_MAX
  return (q.client or require("route").client).request(spec, now_ms() + FETCH_MS)
end

local function document(q, p, url, life)
  local kept = documents[url]
  if kept and q.now - kept.at < life and q.now >= kept.at then return kept.json end
  local a = request(q, p, { method = "GET", url = url, headers = { { "Accept", "application/json" } }, text = true })
  local json = a and a.status == 200 and require("json").decode(a.text or "")
  if type(json) ~= "table" then return nil end
  documents[url] = { json = json, at = q.now }
  return json
end

-- An address that the provider names: https, or as the issuer is.
local function address(p, text)
  local url = type(text) == "string" and require("http").parse_url(text)
  return url and not text:find("[#%s]") and (url.scheme == "https" or p.value:sub(1, 5) == "http:") and text or nil
end

--- Where the provider has what: { authorize, token, jwks, iss = whether its answers name it } | nil: it does not answer.
function M.metadata(q, p)
  local m = document(q, p, p.value:gsub("/$", "") .. "/.well-known/openid-configuration", CACHE_S)
  if not m or m.issuer ~= p.value then return nil end
  local out = { authorize = address(p, m.authorization_endpoint), token = address(p, m.token_endpoint), jwks = address(p, m.jwks_uri), iss = m.authorization_response_iss_parameter_supported == true }
  return out.authorize and out.token and out.jwks and out or nil
end

local function redirect_uri() return access.issuer() .. "/login/oidc/callback" end

local function state_of(browser, random) return random .. "." .. access.hash("oidc-state", browser .. "/" .. random) end
local function nonce_of(browser, state) return access.hash("oidc-nonce", browser .. "/" .. state) end
local function verifier_of(browser, state) return access.hash("oidc-verifier", browser .. "/" .. state) end

--- The address of the provider's page. asked: { redirect_uri, state, nonce, verifier }
function M.address(p, m, asked)
  local secret = require "secret"
  return m.authorize .. (m.authorize:find("?", 1, true) and "&" or "?") .. require("form").encode {
    { "response_type", "code" }, { "client_id", p.client_id }, { "redirect_uri", asked.redirect_uri }, { "scope", "openid email" }, { "state", asked.state },
    { "nonce", asked.nonce }, { "code_challenge", secret.base64url(secret.sha256(asked.verifier)) }, { "code_challenge_method", "S256" } }
end

-- What is asked in the door's way.
local function asked_of(browser, state)
  return { redirect_uri = redirect_uri(), state = state, nonce = nonce_of(browser, state), verifier = verifier_of(browser, state) }
end

-- Off to the provider. after: "n" and the query to go on with, or "l" and a link.
local function leave(q, after)
  local p = M.provider()
  local m = p and M.metadata(q, p)
  if not m then return page.says(502, "Not now", "The organisation's sign-in does not answer.") end
  local browser, set = sessions.browser(q)
  local coded = require("secret").base64url(after)
  return page.see(M.address(p, m, asked_of(browser, state_of(browser, access.random()))),
    { { "Set-Cookie", ("%s=%s; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=600"):format(NEXT, #coded <= NEXT_MAX and coded or "") }, set })
end

--- GET /login/oidc?next=…
function M.start(q) return leave(q, "n" .. ((page.params(q.query) or {}).next or "")) end

--- POST /login/oidc: with a link, which binds its user to whoever signs in there.
function M.bind(q)
  local p, browser = page.posted(q), sessions.shown(q)
  if not p or not p.link or not browser or not sessions.csrf_ok(browser, "login", p.csrf) then return wrong "The form was not filled in here." end
  return leave(q, "l" .. p.link)
end

-- ---- the answer ----------------------------------------------------------------------------------

local function decoded(text) return text and text ~= "" and require("secret").decode("base64url", text) or nil end

-- The key of a JWK set that a token's header names: its two raw halves, for that algorithm | nil
local function find_key(set, header)
  local family = ({ RS = "RSA", ES = "EC" })[header.alg:sub(1, 2)]
  local curve = ({ ES256 = "P-256", ES384 = "P-384" })[header.alg]
  for _, k in ipairs(type(set.keys) == "table" and set.keys or {}) do
    if type(k) == "table" and k.kty == family and (k.use == nil or k.use == "sig") and (k.alg == nil or k.alg == header.alg) and k.crv == curve
      and (header.kid == nil or k.kid == header.kid) and type(k.kty == "EC" and k.x or k.n) == "string" and type(k.kty == "EC" and k.y or k.e) == "string" then
      return decoded(k.kty == "EC" and k.x or k.n), decoded(k.kty == "EC" and k.y or k.e)
    end
  end
end

local function has(aud, id)
  if type(aud) ~= "table" then return aud == id end
  for _, v in ipairs(aud) do
    if v == id then return true end
  end
  return false
end

--- The claims of an ID token that is one: of this provider, for us, now, for this nonce (OpenID Connect Core 3.1.3.7) | nil, why
function M.claims(q, p, jwks, text, nonce)
  local head, body, sig = (text or ""):match("^([%w_-]+)%.([%w_-]+)%.([%w_-]+)$")
  local json = require "json"
  local header, c = head and json.decode(decoded(head) or ""), head and json.decode(decoded(body) or "")
  if type(header) ~= "table" or type(c) ~= "table" or type(header.alg) ~= "string" then return nil, "malformed" end
  if not ({ RS256 = 1, RS384 = 1, RS512 = 1, ES256 = 1, ES384 = 1 })[header.alg] or header.crit ~= nil then return nil, "algorithm" end
  local set = document(q, p, jwks, CACHE_S)
  local a, b = nil, nil
  if set then a, b = find_key(set, header) end
  if not a then       -- a new key, perhaps
    set = document(q, p, jwks, AGAIN_S)
    if set then a, b = find_key(set, header) end
  end
  if not a or not b or not require("sign.core").verify(header.alg, a, b, head .. "." .. body, decoded(sig) or "") then return nil, "signature" end
  local function number(v) return type(v) == "number" and v or nil end
  if c.iss ~= p.value then return nil, "iss" end
  if not has(c.aud, p.client_id) or type(c.aud) == "table" and #c.aud > 1 and c.azp == nil or c.azp ~= nil and c.azp ~= p.client_id then return nil, "aud" end
  if not number(c.exp) or c.exp <= q.now - SKEW_S or (number(c.iat) or q.now) > q.now + SKEW_S or (number(c.nbf) or 0) > q.now + SKEW_S then return nil, "exp" end
  if not access.same(c.nonce, nonce) then return nil, "nonce" end
  if type(c.sub) ~= "string" or c.sub == "" or #c.sub > 255 then return nil, "sub" end
  return c
end

-- The user whom a person of the provider is: by who was bound, by the link that they came with, or by an e-mail that the provider
-- has verified, where the operator allows that. may(user): whether that one may be bound here. -> record | nil
local function user_of(q, p, c, link, may, context)
  local store = require "store"
  local key = "i/" .. access.hash("openid", c.iss .. " " .. c.sub)
  local bound = store.peek("user", key)
  local user = bound and access.user(bound.user)
  local own = user and user.id == bound.user_id and user.oidc or {}       -- who came by a later link has taken the place
  if own.issuer == c.iss and own.sub == c.sub then return user end
  local spent
  if link then
    user, spent = require("web.people").of_link(link, q.now)
  else
    local name = p.emails and c.email_verified == true and type(c.email) == "string" and access.user_name(c.email)
    user = name and name:find("@", 1, true) and access.user(name)
  end
  if not user or user.oidc and not link or may and not may(user) then return nil end       -- bound to somebody else already, or none
  user.oidc = { issuer = c.iss, sub = c.sub }
  local ops = { context = context or require("changes").page(q, user.name),
    { op = "put", db = "user", key = "u/" .. user.name, plain = user, version = user.version, moves = true },
    { op = "put", db = "user", key = key, version = bound and bound.version or 0, plain = { user = user.name, user_id = user.id } },
  }
  if spent then
    user.links = (user.links or 0) + 1
    ops[3] = { op = "del", db = "token", key = "l/" .. user.id, version = spent.version }
  end
  return store.commit(ops) and access.user(user.name) or nil
end

M.user_of = user_of

--- What the provider says of the person whom it sends back with the parameters `a`: claims | nil, a sentence. asked: as M.address had it.
function M.judge(q, p, m, asked, a)
  if a.iss and a.iss ~= p.value or m.iss and not a.iss then return nil, "Another provider has answered." end
  if not a.code then return nil, "The organisation did not let you in." end
  local form = { { "grant_type", "authorization_code" }, { "code", a.code }, { "redirect_uri", asked.redirect_uri }, { "code_verifier", asked.verifier } }
  local headers = { { "Accept", "application/json" }, { "Content-Type", "application/x-www-form-urlencoded" } }
  local secret = p.secrets and p.secrets.client_secret
  if secret then headers[3] = { "Authorization", require("oauth").basic(require "secret", p.client_id, secret) } else form[5] = { "client_id", p.client_id } end
  local answer = request(q, p, { method = "POST", url = m.token, headers = headers, body = require("form").encode(form), expect = { id_token = "string" } })
  if not answer or answer.status ~= 200 or not answer.values then return nil, "The organisation's sign-in gave no answer that counts." end
  local c, why = M.claims(q, p, m.jwks, answer.values.id_token, asked.nonce)
  return c, c and "" or ("The organisation's answer cannot be trusted (%s)."):format(why)
end

--- GET /login/oidc/callback
function M.callback(q)
  local p, a, twice = M.provider(), page.params(q.query)
  local browser = sessions.shown(q)
  local random = a and not twice and a.state and a.state:match("^([%w_-]+)%.%w+$")
  if not p or not browser or not random or not access.same(a.state, state_of(browser, random)) then return wrong "It was not begun here, or too long ago. Begin again." end
  local m = M.metadata(q, p)
  if not m then return page.says(502, "Not now", "The organisation's sign-in does not answer.") end
  local c, why = M.judge(q, p, m, asked_of(browser, a.state), a)
  if not c then return wrong(why) end
  local after = decoded(sessions.cookie(q, NEXT)) or "n"
  local user = user_of(q, p, c, after:sub(1, 1) == "l" and after:sub(2) or nil)
  if not user then return wrong "Nobody has let you in here yet. Ask who runs this box." end
  local set = sessions.begin(q, user)
  if not set then return page.says(503, "Not now", "The sign-in could not be kept.") end
  set[#set + 1] = { "Set-Cookie", NEXT .. "=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0" }
  return require("web.people").onward(after:sub(1, 1) == "n" and after:sub(2) or nil, set)
end

return M
