--- What a person sees besides the consent page: signing in, the link that sets a password, an authenticator app, connections.
local access = require "web.access"
local changes = require "changes"
local page = require "web.page"
local sessions = require "web.sessions"
local html = page.html
local M = {}

local function wrong(text) return page.says(400, "This request cannot go on", text or "The form was not filled in here, or too long ago. Go back and try again.") end

local function hidden(name, value) return html('<input type="hidden" name="{name}" value="{value}">', { name = name, value = value }) end

local function alert(note) return note ~= nil and html('<p class="warn" role="alert">{note}</p>', { note = note }) end

--- Where somebody goes on: to what a client asked for, to what they were to answer, or to their own page. The text is a query or an address of
-- ours and nothing else.
function M.onward(next_, headers)
  if next_ and (next_ == "/approvals" or next_:find("^/approvals/[pq]/%x+$")) and #next_ <= 64 then return page.see(next_, headers) end
  if next_ and next_ ~= "" and #next_ <= 8192 and not next_:find("[^\33-\126]") then return page.see("/oauth/authorize?" .. next_, headers) end
  return page.see("/connections", headers)
end

local function provider() return require("web.openid").provider() end

local function query(q) return page.params(q.query) or {} end

-- ---- signing in ----------------------------------------------------------------------------------

local function sign_in_page(q, status, next_, note, more)
  local browser, set = sessions.browser(q)
  local headers = { set }
  table.move(more or {}, 1, #(more or {}), #headers + 1, headers)
  local with = provider()
  local there = with and html('<p><a href="/login/oidc?{query}">Sign in with {issuer}</a></p>', { query = require("form").encode { { "next", next_ or "" } }, issuer = with.value })
  if with and with.only then return page.page(status, "Sign in", html("{note}{there}", { note = alert(note), there = there }), headers) end
  return page.page(status, "Sign in", html([[
{note}{there}<form method="post" action="/login">{csrf}{next}
<label>E-mail address<input name="user" autocomplete="username" autocapitalize="none" spellcheck="false" required autofocus></label>
<label>Password<input name="password" type="password" autocomplete="current-password" required></label>
<label>Code, if you use an authenticator app<input name="code" inputmode="numeric" autocomplete="one-time-code"></label>
<button class="go">Sign in</button></form>]], { note = alert(note), there = there or false, csrf = hidden("csrf", sessions.csrf(browser, "login")), next = hidden("next", next_ or "") }), headers)
end

local function link_page(q, status, link, note)
  local browser, set = sessions.browser(q)
  local csrf, with = hidden("csrf", sessions.csrf(browser, "login")), provider()
  local there = with and html('<form method="post" action="/login/oidc">{csrf}{link}<button>Use {issuer} instead</button></form>',
    { csrf = csrf, link = hidden("link", link), issuer = with.value })
  local origin = with and "https:" .. (with.value:sub(1, 5) == "http:" and " http:" or "")     -- wherever the provider's page is
  if with and with.only then return page.page(status, "Sign in", html("{note}{there}", { note = alert(note), there = there }), { set }, origin) end
  return page.page(status, "Set a password", html([[
{note}{there}<p>This link is good once. The password is for this box alone: use one that you use nowhere else.</p>
<form method="post" action="/login">{csrf}{link}
<label>New password<input name="password" type="password" autocomplete="new-password" minlength="10" required autofocus></label>
<label>Once more<input name="again" type="password" autocomplete="new-password" required></label>
<button class="go">Set the password</button></form>]], { note = alert(note), there = there or false, csrf = csrf, link = hidden("link", link) }), { set }, origin)
end

local function too_many(seconds)
  return page.says(429, "Too many attempts", "Wait a little and try again.", { { "Retry-After", tostring(seconds) } })
end

--- GET /login: the form, or with a link the one that sets a password. Nothing is spent by looking.
function M.login(q)
  local p = query(q)
  if p.link then return link_page(q, 200, p.link) end
  return sign_in_page(q, 200, p.next)
end

--- The user of a link that counts, and its record | nil
function M.of_link(text, now)
  local id, secret = text:match("^(%x+)%.([%w_-]+)$")
  local link = id and #text < 200 and require("store").peek("token", "l/" .. id)
  if not link or link.expires_at <= now or not access.same(link.hash, access.hash("link", secret)) then return nil end
  local user = access.user(link.user)
  if user and user.id == id and user.links == link.n then return user, link end
end

local function spend(q, p)
  local user, link = M.of_link(p.link, q.now)
  if not user then return page.says(400, "This link has ended", "It was used, is older than a day, or a newer one was made. Ask for another.") end
  if p.password ~= p.again then return link_page(q, 400, p.link, "The two are not the same.") end
  local good, why = sessions.password_ok(user, p.password or "")
  if not good then return link_page(q, 400, p.link, why) end
  if not sessions.attempt(user.name, q.peer, q.now, true) then return too_many(900) end
  local password = sessions.password_make(user, p.password)
  if not password then return too_many(3) end
  user.password, user.links = password, (user.links or 0) + 1
  local ok, code = require("store").commit {
    { op = "put", db = "user", key = "u/" .. user.name, plain = user, version = user.version, moves = true },
    { op = "del", db = "token", key = "l/" .. user.id, version = link.version }, context = changes.page(q, user.name),
  }
  if not ok then return code == "conflict" and wrong "Somebody changed this at the same time. Try again." or page.says(503, "Not now", "The password could not be kept.") end
  sessions.succeeded(user.name, q.peer, q.now)
  if user.totp then return page.see "/login" end       -- a link that somebody else read is no second factor
  local headers = sessions.begin(q, access.user(user.name))
  if not headers then return page.says(503, "Not now", "The sign-in could not be kept.") end
  return page.see(user.totp_wanted and "/login/totp" or "/connections", headers)
end

--- POST /login: a sign-in, or with a link its password.
function M.sign_in(q)
  local p, twice = page.posted(q)
  local browser = sessions.shown(q)
  if not p or twice or not browser or not sessions.csrf_ok(browser, "login", p.csrf) then return wrong() end
  local with = provider()
  if with and with.only then return wrong "Passwords are not used here." end
  if p.link then return spend(q, p) end
  local name = access.user_name(p.user or "") or ""
  if not sessions.attempt(name, q.peer, q.now) then return too_many(900) end
  local user = access.user(name)
  local right, busy = sessions.password_is(user, p.password or "")
  if busy then return too_many(3) end
  if right and user.totp then right = sessions.totp_is(user, user.totp, p.code or "", q.now) end
  if not right then return sign_in_page(q, 403, p.next, "That name, password or code is not right.") end
  sessions.succeeded(name, q.peer, q.now)
  local headers = sessions.begin(q, user)
  if not headers then return page.says(503, "Not now", "The sign-in could not be kept.") end
  if user.totp_wanted and not user.totp then return page.see("/login/totp?" .. require("form").encode { { "next", p.next or "" } }, headers) end
  return M.onward(p.next, headers)
end

--- POST /logout
function M.logout(q)
  local p, session = page.posted(q), sessions.current(q)
  if not p or session and not sessions.csrf_ok(session.key, "logout", p.csrf) then return wrong() end
  return page.see("/login" .. (p.next and "?" .. require("form").encode { { "next", p.next } } or ""), sessions.finish(session))
end

-- ---- an authenticator app ------------------------------------------------------------------------

local function factor_page(session, status, nonce, next_, note)
  local key = sessions.totp_text(session.user, nonce)
  return page.page(status, "Set up an authenticator app", html([[
{note}<p>Add this key to your app (time based, six digits), then type the code that it shows.</p><p><code>{key}</code></p>
<form method="post" action="/login/totp">{csrf}{nonce}{next}
<label>Code<input name="code" inputmode="numeric" autocomplete="one-time-code" required autofocus></label>
<button class="go">Use this app</button></form>]], {
    note = alert(note), key = key:gsub("....", "%0 "), csrf = hidden("csrf", sessions.csrf(session.key, "totp/" .. nonce)),
    nonce = hidden("nonce", nonce), next = hidden("next", next_ or "") }))
end

--- GET /login/totp
function M.factor(q)
  local session = sessions.current(q)
  if not session then return page.see "/login" end
  if session.user.totp then return page.says(200, "Authenticator app", "It is set up. If you lost it, ask who runs this box.") end
  return factor_page(session, 200, access.random(), query(q).next)
end

--- POST /login/totp
function M.set_factor(q)
  local p, session = page.posted(q), sessions.current(q)
  if not p or not session or session.user.totp or not p.nonce or not sessions.csrf_ok(session.key, "totp/" .. p.nonce, p.csrf) then return wrong() end
  local user = session.user
  if not sessions.attempt(user.name, q.peer, q.now, true) then return too_many(900) end
  if not sessions.totp_is(user, p.nonce, p.code or "", q.now) then return factor_page(session, 403, p.nonce, p.next, "That is not the code of this key and of now.") end
  user.totp = p.nonce
  local ok = require("store").commit { { op = "put", db = "user", key = "u/" .. user.name, plain = user, version = user.version, moves = true },
    context = changes.page(q, user.name) }
  if not ok then return wrong "Somebody changed this at the same time. Try again." end
  sessions.succeeded(user.name, q.peer, q.now)
  local headers = sessions.begin(q, access.user(user.name))
  if not headers then return page.says(503, "Not now", "The sign-in could not be kept.") end
  return M.onward(p.next, headers)
end

-- ---- connections ---------------------------------------------------------------------------------

local function day(at) return (require("dates").iso(at):gsub("T(%d+:%d+).*", " %1 UTC")) end

--- GET /connections: what is connected, and a button to end each.
function M.connections(q)
  local session = sessions.current(q)
  if not session then return page.see "/login" end
  local user, rows = session.user, {}
  for i, g in ipairs(access.connections_of(user)) do
    local used = require("store").peek("token", "v/" .. g.connection)
    rows[i] = html([[
<fieldset><legend><bdi>{client}</bdi></legend><p>{gateway}, for {tenant}<small>{scopes}</small><small>since {created}; last used {used}</small></p>
<form method="post" action="/connections">{csrf}{id}<button aria-label="Disconnect {client}">Disconnect</button></form></fieldset>]], {
      client = g.client_name or "A program without a name", gateway = g.gateway, tenant = g.tenant, scopes = table.concat(g.scopes, " "),
      created = day(g.created), used = used and day(used.at) or "never", id = hidden("connection", g.connection),
      csrf = hidden("csrf", sessions.csrf(session.key, "disconnect/" .. g.connection)) })
  end
  return page.page(200, "Connections", html([[
<p>Signed in as <strong>{user}</strong>. A program that you disconnect can do nothing more here.</p>{rows}{factor}
<form method="post" action="/logout">{csrf}<button>Sign out</button></form>]], {
    user = user.name, rows = rows[1] and rows or html("<p>Nothing is connected.</p>"), csrf = hidden("csrf", sessions.csrf(session.key, "logout")),
    factor = not user.totp and html '<p><a href="/login/totp">Set up an authenticator app</a></p>' }))
end

--- POST /connections: ends one of one's own.
function M.disconnect(q)
  local p, session = page.posted(q), sessions.current(q)
  local id = p and p.connection or ""
  if not session or not id:find("^%x+$") or not sessions.csrf_ok(session.key, "disconnect/" .. id, p.csrf) then return wrong() end
  for _, g in ipairs(access.connections_of(session.user)) do
    if g.connection == id and not require("web.tokens").finish(id, changes.page(q, session.user.name)) then return page.says(503, "Not now", "It could not be ended. Try again.") end
  end
  return page.see "/connections"
end

return M
