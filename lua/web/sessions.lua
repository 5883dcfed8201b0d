--- Who sits at the browser: cookies, sessions, tokens against forged forms, passwords, authenticator codes, attempts.
local access = require "web.access"
local M = {}

M.LIFE = 43200          -- s: a working day
M.ROUNDS = 600000       -- of PBKDF2-HMAC-SHA256: what OWASP asks for at least, 2023
local PASSWORD_MIN, PASSWORD_MAX = 10, 256
local COOKIE, FORM = "__Host-sallyport", "__Host-sallyport-form"

local function store() return require "store" end
local function commit(ops) return store().commit(ops) end

-- ---- cookies and forms ---------------------------------------------------------------------------

--- What a cookie of the request holds | nil
function M.cookie(q, name)
  for pair in (q.header "cookie" or ""):gmatch("[^;]+") do
    local n, v = pair:match("^%s*([^=%s]+)=(%S*)")
    if n == name then return v end
  end
end

local function cookie(q, name)
  local v = M.cookie(q, name)
  return v and #v == 43 and v or nil
end

local function set_cookie(name, value, age)
  return { "Set-Cookie", ("%s=%s; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=%d"):format(name, value, age) }
end

--- The session that the request's cookie names, with its user's record | nil.
function M.current(q)
  local text = cookie(q, COOKIE)
  local key = text and "s/" .. access.hash("session", text)
  local s = key and store().peek("token", key)
  if not s or s.expires_at <= q.now then return nil end
  local user = access.user(s.user)
  -- Another record of the same name, or one that changed since: its password, its factor, what it may.
  if not user or user.id ~= s.user_id or user.epoch ~= s.user_epoch then return nil end
  return { key = key, user = user }
end

--- Against forged forms: what a form of this session (or of this browser, before a sign-in) carries. about: the form, and what
-- it is about, so that the token of one is no other's.
function M.csrf(owner, about) return access.hash("form", owner .. "/" .. about) end

function M.csrf_ok(owner, about, text) return access.same(M.csrf(owner, about), text) end

--- What stands for a browser without a session: its cookie's text, and the header that sets it where it has none.
function M.browser(q)
  local have = cookie(q, FORM)
  if have then return have end
  local new = access.random()
  return new, set_cookie(FORM, new, 86400)
end

--- What the browser of a POST has shown | nil.
function M.shown(q) return cookie(q, FORM) end

--- Operations that take away what has expired below a prefix: a page, from a place that chance picks.
function M.sweep(prefix, now)
  local ops, rows = {}, store().each("token", prefix, prefix .. access.id():sub(1, 1), 64) or {}
  for _, row in ipairs(rows) do
    if row.record and (row.record.expires_at or 0) < now then ops[#ops + 1] = { op = "del", db = "token", key = row.key } end
  end
  return ops
end

-- A session that was ended and is put back on the disk counts again while nothing of its user changes, for its twelve hours at most,
-- and to whoever has its cookie: to list sessions in the table of records would move the configuration with each sign-in.

--- Begins a session: headers | nil, code. The old one ends, whoever's it was: none is ever taken over.
function M.begin(q, user)
  local text = access.random()
  local ops = M.sweep("s/", q.now)
  local old = cookie(q, COOKIE)
  if old then ops[#ops + 1] = { op = "del", db = "token", key = "s/" .. access.hash("session", old) } end
  ops[#ops + 1] = { op = "put", db = "token", key = "s/" .. access.hash("session", text),
    plain = { user = user.name, user_id = user.id, user_epoch = user.epoch, created = q.now, expires_at = q.now + M.LIFE } }
  local ok, code = commit(ops)
  if not ok then return nil, code end
  return { set_cookie(COOKIE, text, M.LIFE) }
end

function M.finish(session)
  if session then commit { { op = "del", db = "token", key = session.key } } end
  return { set_cookie(COOKIE, "", 0) }
end

-- ---- passwords -----------------------------------------------------------------------------------

-- The hash is kept under the store's key on top: the disk alone gives nothing to guess at.
local function derive(name, password, salt, rounds)
  local bytes, code = require("sign.core").pbkdf2(password, salt, rounds)
  if not bytes then return nil, code end
  return access.hash("password", name .. "/" .. require("secret").hex(bytes))
end

--- Is it one that may be set? nil, why
function M.password_ok(user, password)
  if #password < PASSWORD_MIN then return nil, ("A password has at least %d characters."):format(PASSWORD_MIN) end
  if #password > PASSWORD_MAX then return nil, "That password is too long." end
  if password:lower():find(user.name:match("^[^@]*"), 1, true) or not password:find("[^" .. password:sub(1, 1):gsub("%W", "%%%0") .. "]") then
    return nil, "That password is too easy to guess."
  end
  return true
end

--- What the user's record keeps of a password | nil, "busy".
function M.password_make(user, password)
  local salt = access.random()
  local check, code = derive(user.name, password, salt, M.ROUNDS)
  if not check then return nil, code end
  return { salt = salt, rounds = M.ROUNDS, check = check }
end

--- Is it the user's? false | nil, "busy". For nobody it takes as long.
function M.password_is(user, password)
  local p = user and user.password or { salt = "nobody", rounds = M.ROUNDS, check = "" }
  local check, code = derive(user and user.name or "", password:sub(1, PASSWORD_MAX + 1), p.salt, p.rounds)
  if not check then return nil, code end
  return access.same(check, p.check) and user ~= nil and user.password ~= nil
end

-- ---- authenticator codes (RFC 6238) --------------------------------------------------------------

local STEP = 30
local BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

-- 160 bits. What is kept is a number that chance made; the secret follows from it and the store's key.
local function totp_key(user, nonce) return require("secret").sha256(access.hash("totp", user.id .. "/" .. nonce)):sub(1, 20) end

--- The code of a key and a step (RFC 4226 5.3).
function M.hotp(key, step)
  local mac = require("secret").hmac(key, "sha1", (">I8"):pack(step))
  local at = mac:byte(20) & 15
  return ("%06d"):format(((">I4"):unpack(mac, at + 1) & 0x7fffffff) % 1000000)
end

--- The key as people type it into an app (RFC 4648 6).
function M.totp_text(user, nonce)
  local bits, n, out = 0, 0, {}
  for byte in totp_key(user, nonce):gmatch(".") do
    bits, n = bits << 8 | byte:byte(), n + 8
    while n >= 5 do
      n = n - 5
      local at = (bits >> n & 31) + 1
      out[#out + 1] = BASE32:sub(at, at)
    end
    bits = bits & (1 << n) - 1
  end
  return table.concat(out)
end

--- Is it the code of now, or of the step before or behind, and of none that was used? false | nil, code of the store.
function M.totp_is(user, nonce, text, now)
  local code = text:gsub("%s", "")
  if not code:find("^%d%d%d%d%d%d$") then return false end
  local key, kept = "o/" .. user.id, store().peek("token", "o/" .. user.id)
  for step = now // STEP - 1, now // STEP + 1 do
    if access.same(M.hotp(totp_key(user, nonce), step), code) and step > (kept and kept.step or 0) then
      local ok, why = commit { { op = "put", db = "token", key = key, version = kept and kept.version or 0, plain = { step = step } } }
      if not ok and why == "conflict" then return false end     -- somebody used it just now
      return ok, why
    end
  end
  return false
end

-- ---- attempts ------------------------------------------------------------------------------------
-- Counted by all workers together, past the death of one, before anything is hashed. Who guesses at one account from everywhere
-- makes strangers wait, but not an address from which its owner has signed in; and an address that guesses makes nobody else wait.
-- The counters are a count-min sketch (Cormode and Muthukrishnan 2005): a name or address is one cell in each of four rows, chosen
-- under the store's key, and its count is the least of the four. So their number is fixed, no flood of names makes room for
-- another guess, and nobody can aim at somebody else's cells.

local WINDOW = 900      -- s
local ROWS, CELLS = 4, 16       -- host.tally has 4 x 2^16
local PLACES = 16       -- from which somebody has signed in; the newest stay
local limits = { pair = 10, address = 50, account = 100 }

local function count(kind, text, now, n)
  local least
  local cells = { (">I2I2I2I2"):unpack(require("secret").sha256(access.hash("attempt", kind .. " " .. text))) }
  for row = 1, ROWS do
    local seen = require("host").tally(row - 1 << CELLS | cells[row], now // WINDOW & 0xffff, n)
    least = math.min(least or seen, seen)
  end
  return least
end

--- What one household or machine has of addresses: of IPv6 a /64 (RFC 6177). peer: as the kernel writes one.
function M.network(peer)
  if not peer:find(":", 1, true) then return peer end
  local head, tail = peer:match("^(.-)::(.*)$")
  local groups, behind = {}, {}
  for g in (head or peer):gmatch("[^:]+") do groups[#groups + 1] = g end
  for g in (tail or ""):gmatch("[^:]+") do behind[#behind + 1] = g end
  for _ = 1, 8 - #groups - #behind do groups[#groups + 1] = "0" end
  table.move(behind, 1, #behind, #groups + 1, groups)
  return table.concat(groups, ":", 1, 4)
end

-- Whether it is one attempt more than may be; counts it.
local function over(kind, text, now) return count(kind, text, now, 1) > limits[kind] end

local function places_of(account)
  local key = "n/" .. access.hash("places", account)
  return key, store().peek("token", key)
end

local function has(list, v)
  for i, one in ipairs(list) do
    if one == v then return i end
  end
end

local function is_known(account, place)
  local _, kept = places_of(account)
  return kept and has(kept.places, access.hash("place", place)) ~= nil
end

--- May somebody at `peer` try an account's password now? Counts the attempt. false: it is too many, for the answer 429. proven:
-- a link or a session has said who it is, so that strangers' guesses at the account do not count.
function M.attempt(account, peer, now, proven)
  local place = M.network(peer)
  if over("pair", account .. " " .. place, now) or over("address", place, now) then return false end
  return proven or not over("account", account, now) or is_known(account, place)
end

--- It was the right one: these no longer count against them.
function M.succeeded(account, peer, now)
  local place = M.network(peer)
  local pair = account .. " " .. place
  count("pair", pair, now, -count("pair", pair, now, 0))
  count("address", place, now, -1)
  if is_known(account, place) then return end
  local key, kept = places_of(account)
  local list = kept and kept.places or {}
  table.insert(list, 1, access.hash("place", place))
  commit { { op = "put", db = "token", key = key, version = kept and kept.version or 0, plain = { places = table.move(list, 1, PLACES, 1, {}) } } }
end

--- The operation that forgets from where somebody has signed in.
function M.forget(account) return { op = "del", db = "token", key = (places_of(account)) } end

return M
