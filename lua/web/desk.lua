--- The operator's page: who may see it, its frame, and which address shows what. `sallyport admin` serves it on a loopback
-- port, to which every program of this machine can connect, and whose cookies other servers on other ports see: so a session
-- is a random path together with a cookie for that path, and neither is worth anything alone. `serve --admin` serves it to
-- people of the kind `operator`, who sign in with their password. No page needs a script; what should be live has one (web.live).
local access = require "web.access"
local api = require "web.api"
local page = require "web.page"
local sessions = require "web.sessions"
local html = page.sparse
local M = {}

local CODE_LIFE = 600           -- s from the start of the command to the sign-in
local IDLE = 3600               -- s without a request: the session ends
local LIFE = 43200            -- s: a session of serve --admin ends after a working day, whatever comes
local DESKS_MAX = 32            -- sessions at once: the one that was longest without a request makes room
local FORM_MAX = 1 << 20        -- bytes of a form: a policy's source is in it

local STYLE = [[
:root{color-scheme:light dark;--ink:#1b1d21;--dim:#585d66;--line:#d9dce1;--back:#fbfbfc;--card:#fff;--go:#0b57d0;--on:#fff;--bad:#b3261e;--good:#146c2e}
@media(prefers-color-scheme:dark){:root{--ink:#e8e9ec;--dim:#a3a8b2;--line:#3a3d44;--back:#17181b;--card:#1f2125;--go:#8ab4f8;--on:#0e1c36;--bad:#f2b8b5;--good:#81c995}}
*{box-sizing:border-box}
body{margin:0;font:1rem/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back)}
a{color:var(--go)}
header{border-bottom:1px solid var(--line);background:var(--card)}
nav,main{max-width:72rem;margin:0 auto;padding:.5rem 1rem}
nav ul{display:flex;flex-wrap:wrap;gap:.1rem;list-style:none;margin:0;padding:0;align-items:center}
nav a{display:block;padding:.4rem .5rem;border-radius:.4rem;text-decoration:none;color:inherit}
nav a[aria-current]{background:var(--go);color:var(--on)}
nav li:last-child{margin-left:auto}
.skip{position:absolute;left:-99rem;white-space:nowrap}.skip:focus{left:1rem}
main{padding:1rem 1rem 4rem;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.2;margin:1rem 0}
h2{font-size:1.15rem;margin:2rem 0 .5rem}
p{max-width:44rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:.5rem .75rem .5rem 0;border-bottom:1px solid var(--line);overflow-wrap:normal}
th{font-weight:600;color:var(--dim);font-size:.875rem}
td.n,th.n{text-align:right}time{white-space:nowrap}.any{overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:minmax(6rem,12rem) 1fr;gap:.3rem 1rem;margin:0}
dt{color:var(--dim)}dd{margin:0}
small,.dim{color:var(--dim);font-size:.875rem}label~small,label+*+small{display:block;max-width:36rem}
label,.label{display:block;margin:1rem 0 .2rem;font-weight:600}
label.on{font-weight:400}
input,select,textarea,button,.button{font:inherit;color:inherit;background:var(--card);border:1px solid var(--dim);border-radius:.4rem;padding:.45rem .6rem;min-height:2.5rem}
input:not([type=checkbox]),select,textarea{width:100%;max-width:36rem}
input[type=checkbox]{min-height:0;width:1.25rem;height:1.25rem;vertical-align:middle}
textarea{display:block}
textarea.code{font:.875rem/1.5 ui-monospace,monospace;max-width:none;white-space:pre;tab-size:2;overflow-y:hidden;resize:none;field-sizing:content;padding-left:3.75rem}
.edit{position:relative}.edit pre{position:absolute;inset:0 auto 1px 1px;width:3.25rem;margin:0;padding:.5rem .5rem 0 0;border:0;border-radius:0;background:none;overflow:hidden;text-align:right;color:var(--dim);pointer-events:none}
.edit b{color:var(--bad)}
button,.button{cursor:pointer;text-decoration:none;display:inline-block;line-height:1.5}
button.go,.button.go{background:var(--go);color:var(--on);border-color:var(--go)}
button.end{color:var(--bad);border-color:var(--bad)}
.row{display:flex;flex-wrap:wrap;gap:.5rem;align-items:end;margin:1rem 0}.row label{margin:0;max-width:100%}.row input,.row select{font-weight:400}.row input,.row select{width:auto;max-width:100%}
.note,.warn{border-left:.25rem solid var(--go);padding:.5rem .75rem;background:var(--card);margin:1rem 0;max-width:44rem;white-space:pre-line}
.warn{border-color:var(--bad)}
td .row{margin:0;flex-wrap:nowrap}td a~a{margin-left:.5rem}
.bad{color:var(--bad)}.good{color:var(--good)}
pre,code{font:.875rem/1.5 ui-monospace,monospace}
pre.any{white-space:pre-wrap}
pre{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.75rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.75rem;list-style:none;padding:0}
.cards a{display:block;height:100%;padding:.75rem;border:1px solid var(--line);border-radius:.5rem;background:var(--card);text-decoration:none;color:inherit}
.cards a:hover{border-color:var(--go)}
svg{width:100%;height:auto;max-width:44rem}
svg.gauge{display:block;width:6rem;margin:.3rem 0}
svg .ok{fill:var(--go)}svg .no{fill:var(--bad)}svg .base{fill:var(--line)}
i.ok,i.no{display:inline-block;width:.75rem;height:.75rem;border-radius:.2rem;background:var(--go)}i.no{background:var(--bad)}
.ends{display:flex;justify-content:space-between;max-width:44rem;margin:0}
fieldset{border:1px solid var(--line);border-radius:.4rem;margin:1rem 0;max-width:38rem}
:focus-visible{outline:3px solid #f90;outline-offset:2px}
@media(max-width:40rem){thead{position:absolute;left:-99rem}table,tbody,td{display:block}tr{display:flex;flex-wrap:wrap;gap:.1rem 1rem;padding:.6rem 0;border-bottom:1px solid var(--line)}
td{border:0;padding:0;min-width:0;max-width:100%;overflow-wrap:anywhere}td:first-child{flex:1 0 100%}td:empty{display:none}td[data-t]:not(:first-child)::before{content:attr(data-t);white-space:nowrap;margin-right:.4rem;color:var(--dim);font-size:.875rem}td .row{flex-wrap:wrap}
dl{grid-template-columns:1fr}dd{margin-bottom:.5rem}nav li:last-child{margin:0}}
]]

local places = { { "", "Home" }, { "connect", "Connect an app" }, { "credentials", "Credentials" }, { "agents", "Agents" },
  { "bundles", "Bundles" }, { "variables", "Variables" }, { "rules", "Rules" }, { "approvals", "Approvals" }, { "policies", "Policies" }, { "log", "Log" },
    { "door", "Door" }, { "settings", "Settings" } }

-- ---- the frame -----------------------------------------------------------------------------------

local OWN = { { "Cross-Origin-Opener-Policy", "same-origin" }, { "Cross-Origin-Resource-Policy", "same-origin" } }

local function answer(status, text, more, script)
  local fields = table.move(OWN, 1, #OWN, 1, {})
  fields[#fields + 1] = more
  return page.document(status, text, STYLE, fields, nil, script)
end

local function document(title, body, refresh)
  return html('<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    .. "{refresh}<title>{title} · Sallyport</title><style>{style}</style>{body}</html>",
    { title = title, body = body, style = page.raw(STYLE), refresh = refresh or false })[1]
end

-- Every page of a session: the bar, the page's name, what was done lately.
local function framed(desk, here, out)
  local items = {}
  for i, p in ipairs(places) do
    items[i] = html('<li><a href="{base}{path}"{now}>{name}</a></li>', { base = desk.base, path = p[1], name = p[2],
      now = p[1] == here and html ' aria-current="page"' })
  end
  local live = out.again and html('<meta http-equiv="refresh" content="{s}">', { s = out.again })
  local script = out.live and require "web.live"
  return answer(out.status or 200, document(out.title, html([[
<a class="skip" href="#main">To the page</a><header><nav aria-label="Parts"><ul>{items}<li>
<form method="post" action="{base}out">{csrf}<button>Sign out</button></form></li></ul></nav></header>
<main id="main"><h1>{title}</h1>{body}{line}</main>{script}]], { items = items, base = desk.base, title = out.title, body = out.body,
    csrf = desk.csrf "out", line = out.line and html('<p class="dim">On the command line: <code>{l}</code></p>',
      { l = type(out.line) == "table" and require("web.commands").line(out.line) or out.line }),
    script = script and html("<script>{s}</script>", { s = page.raw(script) }) }), live), nil, script)
end

local says = { [200] = "Signed out", [404] = "Not there", [421] = "Another address", [429] = "Too many attempts", [500] = "A fault", [503] = "Not now" }

-- A page that says why there is no other, and leads back. back: an address of ours | nil
local function gone(status, text, back)
  local title = says[status] or "Not done"
  return answer(status, document(title, html('<main><h1>{title}</h1><p>{text}</p>{back}</main>',
    { title = title, text = page.prose(text), back = back and html('<p><a class="button" href="{b}">{w}</a></p>', { b = back, w = back == "/login" and "Sign in" or "Back" }) })))
end

-- ---- who may -------------------------------------------------------------------------------------

-- A session, for the holder of its path and its cookie: { path, key, base, seen, begun, user | nil }.
local function open(site, client, user)
  local oldest, n = nil, 0
  for id, desk in pairs(site.desks) do
    n = n + 1
    if not oldest or desk.seen < site.desks[oldest].seen then oldest = id end
  end
  if n >= DESKS_MAX then site.desks[oldest] = nil end
  local now = site.now()
  local desk = { home = site.home, time = site.time, now = site.now, origin = client.origin, kept = {},
    path = access.random(), key = access.random(), seen = now, begun = now, user = user,
    who = user and { by = user.name, door = "page", client = client.at } or nil }
  desk.base = "/s/" .. desk.path .. "/"
  function desk.form_key(rest) return access.hash("desk", desk.key .. " " .. rest) end
  --- The hidden field of a form that is posted to this address.
  function desk.csrf(rest) return html('<input type="hidden" name="csrf" value="{key}">', { key = desk.form_key(rest) }) end
  site.desks[access.hash("desk-path", desk.path)] = desk
  return desk
end

local function close(site, desk)
  for id, one in pairs(site.desks) do
    if one == desk then site.desks[id] = nil end
  end
  site.over = not site.operators
end

-- The browser comes from a file, whose requests are of another site; so do its redirects, which SameSite=Strict cookies do not
-- follow. A page of ours can lead on.
local function entered(desk)
  local secure = desk.origin:find("^https:") and "; Secure" or ""
  return answer(200, document("Signed in", html('<main><p>Signed in. <a href="{base}">Go on</a></p></main>',
    { base = desk.base }),
    html('<meta http-equiv="refresh" content="0;url={base}">', { base = desk.base })),
    { "Set-Cookie", ("sallyport=%s; Path=%s; HttpOnly; SameSite=Strict%s"):format(desk.key, desk.base, secure) })
end

-- POST /start with the code, once: the session's cookie, and a page that leads to it.
local function start(site, req, client, form)
  local code = form and form.code
  if req.method ~= "POST" then
    return answer(200, document("Sign in", html([[
<main><h1>Sallyport</h1><p>This opens the page of the box at <code>{home}</code> in this browser.</p><form method="post" action="/start">
<input type="hidden" name="code" value="{code}"><button class="go">Open Sallyport</button></form></main>]],
      { home = site.home, code = page.clean(page.params(req.query) and page.params(req.query).code, 64) or "" })))
  end
  if not site.code or site.now() > site.code_ends or not access.same(site.code, code) then
    return gone(403, "This link was used, or is older than ten minutes. Run `sallyport admin` again.")
  end
  site.code = nil
  return entered(open(site, client))
end

-- Whether a form comes from a page of ours: what browsers say of it, which no page can set. A form of a page that sends no referrer, as ours, has
-- the origin "null" (Fetch, 3.2), and then the browser has to say that it is of this origin.
local function is_own(client, came)
  local fetch = came["sec-fetch-site"]
  if came.origin == "null" then return fetch == "same-origin" end
  return came.origin == client.origin and (not fetch or fetch == "same-origin")
end

-- ---- people of the kind operator -------------------------------------------------------------------

local function alert(note) return note and html('<p class="warn" role="alert">{n}</p>', { n = note }) end

-- The organisation's own sign-in, where there is one. hidden: a name and value to go on with.
local function elsewhere(name, value)
  local p = require("web.openid").provider()
  return p and html([[
<form method="post" action="/login/oidc"><input type="hidden" name="{n}" value="{v}"><p class="row"><button>Sign in with {issuer}</button></p></form>]],
    { n = name, v = value, issuer = p.value }), p ~= nil and p.only == true
end

local function sign_in_page(status, note, next_)
  local there, only = elsewhere("next", next_ or "")
  if only then return answer(status, document("Sign in", html("<main><h1>Sallyport</h1>{n}{t}</main>", { n = alert(note), t = there }))) end
  return answer(status, document("Sign in", html([[
<main><h1>Sallyport</h1>{note}{there}<form method="post" action="/login"><input type="hidden" name="next" value="{next}">
<label for="user">E-mail address or name</label><input id="user" name="user" autocomplete="username" autocapitalize="none" spellcheck="false" required>
<label for="password">Password</label><input id="password" name="password" type="password" autocomplete="current-password" required>
<label for="code">Code, if you use an authenticator app</label><input id="code" name="code" inputmode="numeric" autocomplete="one-time-code">
<p class="row"><button class="go">Sign in</button></p></form></main>]], { note = alert(note), next = next_ or "", there = there })))
end

local function link_page(status, link, user, note, nonce)
  nonce = user.totp_wanted and not user.totp and (nonce or access.random()) or nil
  local there, only = elsewhere("link", link)
  if only then return answer(status, document("Sign in", html("<main><h1>Sallyport</h1>{n}{t}</main>", { n = alert(note), t = there }))) end
  return answer(status, document("Set a password", html([[
<main><h1>Set a password</h1>{note}{there}<p>This link is good once. The password is for this box alone: use one that you use nowhere else.</p>
<form method="post" action="/login"><input type="hidden" name="link" value="{link}">
<label for="password">New password</label><input id="password" name="password" type="password" autocomplete="new-password" minlength="10" required>
<label for="again">Once more</label><input id="again" name="again" type="password" autocomplete="new-password" required>{factor}
<p class="row"><button class="go">Set the password</button></p></form></main>]], { note = alert(note), link = link, there = there, factor = nonce and html([[
<p>Add this key to your authenticator app (time based, six digits), then type the code that it shows: <code>{key}</code></p>
<input type="hidden" name="nonce" value="{nonce}"><label for="code">Code</label><input id="code" name="code" inputmode="numeric" autocomplete="one-time-code" required>]],
      { nonce = nonce, key = sessions.totp_text(user, nonce):gsub("....", "%0 ") }) })))
end

local function too_many(seconds)
  local out = gone(429, "Too many attempts. Wait a little and try again.", "/login")
  out.headers[#out.headers + 1] = { "Retry-After", tostring(seconds) }
  return out
end

-- The user of a link, who has to be an operator: user, the link's record | nil
local function linked(text, now)
  local user, link = require("web.people").of_link(text or "", now)
  if user and user.operator then return user, link end
end

-- POST /login with a link: the password, and the authenticator app where one is asked for.
local function spend(form, peer, now)
  local user, link = linked(form.link, now)
  if not user then return gone(400, "This link was used, is older than a day, or a newer one was made. Ask for another.", "/login") end
  local function again(status, note) return link_page(status, form.link, user, note, form.nonce) end
  if form.password ~= form.again then return again(400, "The two are not the same.") end
  local good, why = sessions.password_ok(user, form.password or "")
  if not good then return again(400, why) end
  if not sessions.attempt(user.name, peer, now, true) then return too_many(900) end
  if user.totp_wanted and not user.totp then
    local nonce = form.nonce and #form.nonce == 43 and form.nonce
    if not nonce or not sessions.totp_is(user, nonce, form.code or "", now) then return again(403, "That is not the code of this key and of now.") end
    user.totp = nonce
  end
  local password = sessions.password_make(user, form.password)
  if not password then return too_many(3) end
  user.password, user.links = password, (user.links or 0) + 1
  local ok, code = require("store").commit {
    { op = "put", db = "user", key = "u/" .. user.name, plain = user, version = user.version, moves = true },
    { op = "del", db = "token", key = "l/" .. user.id, version = link.version },
    context = { by = user.name, door = "page", page = "POST /login", client = peer },
  }
  if not ok then return gone(503, code == "conflict" and "Somebody changed this at the same time. Try again." or "The password could not be kept.", "/login") end
  sessions.succeeded(user.name, peer, now)
  return sign_in_page(200, "The password is set. Sign in with it.")
end

-- A session for this operator, which begins where they were going.
local function let_in(site, client, user, next_)
  local desk = open(site, client, { name = user.name, id = user.id, epoch = user.epoch })
  desk.first = next_:match("^proposals/%x+$") or next_:match("^approvals/%x+$")
  return entered(desk)
end

-- POST /login
local function sign_in(site, client, form)
  local now = site.time.wall()
  local peer = client.at
  if select(2, elsewhere("", "")) then return sign_in_page(403, "Passwords are not used here.", form.next) end
  if form.link then return spend(form, peer, now) end
  local name = access.user_name(form.user or "") or ""
  if not sessions.attempt(name, peer, now) then return too_many(900) end
  local user = access.user(name)
  -- Nobody learns here who is an operator: whoever is none is as one who is not there.
  if user and not user.operator then user = nil end
  local right, busy = sessions.password_is(user, form.password or "")
  if busy then return too_many(3) end
  if right and user.totp then right = sessions.totp_is(user, user.totp, form.code or "", now) end
  if right and user.totp_wanted and not user.totp then
    return gone(403, "Your account wants an authenticator app: a new link (sallyport user set NAME --link) sets one up.", "/login")
  end
  if not right then return sign_in_page(403, "That name, password or code is not right.", form.next) end
  sessions.succeeded(name, peer, now)
  return let_in(site, client, access.user(name), form.next or "")
end

-- GET and POST below /login/oidc: to the organisation's provider and back.
local function openid(site, client, q, req, form)
  local desk_openid = require "web.desk_openid"
  if form then
    local to, cookie = desk_openid.leave(site, client, { link = form.link, next = form.next })
    if not to then return gone(502, cookie, "/login") end
    return answer(200, document("Sign in", html('<main><p><a href="{to}">Go on to the organisation\'s sign-in</a></p></main>', { to = to }),
      html('<meta http-equiv="refresh" content="0;url={to}">', { to = to })), { "Set-Cookie", cookie })
  end
  if req.path == "/login/oidc/callback" then
    local params, twice = page.params(req.query)
    local to = not twice and desk_openid.back(site, params)
    if not to then return gone(403, "That sign-in was not begun here, or too long ago. Begin again.", "/login") end
    return answer(200, document("Sign in", html('<main><p><a href="{to}">Go on</a></p></main>', { to = to }),
      html('<meta http-equiv="refresh" content="0;url={to}">', { to = to })))
  end
  local user, after = desk_openid.finish(site, client, req.path:match("^/login/oidc/([%w_-]+)/$") or "", sessions.cookie(q, "sallyport-oidc"))
  if not user then return gone(403, after, "/login") end
  return let_in(site, client, user, after.next or "")
end

-- Whether who signed in may still: the same record, which has not changed since.
local function stands(user)
  local now = access.user(user.name)
  return now ~= nil and now.operator == true and now.id == user.id and now.epoch == user.epoch
end

-- ---- requests --------------------------------------------------------------------------------------

-- The session, and the rest of the path behind its own, where both path and cookie are right | nil
local function inside(site, q, path)
  local shown, rest = path:match("^/s/([%w_-]+)/(.*)$")
  local desk = shown and site.desks[access.hash("desk-path", shown)]
  if not desk or not access.same(desk.key, sessions.cookie(q, "sallyport")) then return nil end
  local now = site.now()
  if now - desk.seen > IDLE or site.operators and (now - desk.begun > LIFE or not desk.user or not stands(desk.user)) then
    close(site, desk)
    return nil
  end
  -- A page that asks again by itself is nobody's sign of life (web.live).
  desk.looking = q.header "x-look" == "1"
  if not desk.looking then desk.seen = now end
  return desk, rest
end

-- The browser that comes back from an authorization server: whose answer it is, its state says.
local function callback(site, query)
  local state, whose = (page.params(query) or {}).state, {}
  for _, desk in pairs(site.desks) do
    if desk.asked and (not whose.asked or access.same(desk.asked.asked.state, state)) then whose = desk end
  end
  return require("web.desk_pages").callback(whose, query)       -- which judges the state again
end

-- A program with a token: a session's cookie is nothing here, so no form of another site's is either.
local function asked(site, req, came)
  local body = require("web.body").read(site, req, api.BODY_MAX)
  return body and api.handle { home = site.home, method = req.method, path = req.path, query = req.query,
    header = function(name) return came[name] end, body = type(body) == "string" and body or "" }
end

-- client: { at = its address, origin = of our pages as it names them | nil: it names another }
local function respond(site, req, came, client)
  -- A name that somebody has pointed at this address is not ours (DNS rebinding).
  if not client.origin then return gone(421, "This is not an address of this page.") end
  if api.is(req.path) then return asked(site, req, came) end
  local q, form, twice = { header = function(name) return came[name] end }, nil, nil
  local desk, rest = inside(site, q, req.path)
  local back = desk and desk.base .. (rest ~= "out" and rest or "") or site.operators and "/login" or nil
  if req.method == "POST" then
    local fault
    local body = require("web.body").read(site, req, FORM_MAX, function(status, _, message)
      fault = gone(status, ("Nothing was changed: %s."):format(message), back)
    end)
    if not body then return fault end
    q.body = type(body) == "string" and body or ""
    form, twice = page.posted(q)
    if not form or twice then return gone(400, "That was no form of this page.", back) end
  elseif req.method ~= "GET" and req.method ~= "HEAD" then
    local out = gone(405, "A page is looked at (GET), or a form of it is sent (POST).", back)
    out.headers[#out.headers + 1] = { "Allow", "GET, HEAD, POST" }
    return out
  end
  if req.path == "/start" and not site.operators then return start(site, req, client, form) end
  if site.operators and (req.path == "/" or req.path == "/login" or req.path:find("^/approvals/[pq]/%x+$")) then
    if form and req.path == "/login" then
      if not is_own(client, came) then return gone(403, "This form was not sent from this page.", "/login") end
      return sign_in(site, client, form)
    end
    local link = (page.params(req.query) or {}).link
    local user = link and linked(link, site.time.wall())
    if link and not user then return gone(400, "This link was used, is older than a day, or a newer one was made. Ask for another.", "/login") end
    if user then return link_page(200, link, user) end
    local kind, id = req.path:match("^/approvals/([pq])/(%x+)$")
    return sign_in_page(200, nil, kind and (kind == "p" and "proposals/" or "approvals/") .. id)
  end
  if site.operators and req.path:find("^/login/oidc") then
    if (form ~= nil) ~= (req.path == "/login/oidc") then return gone(404, "There is nothing here.", "/login") end
    if form and not is_own(client, came) then return gone(403, "This form was not sent from this page.", "/login") end
    return openid(site, client, q, req, form)
  end
  if req.path == "/callback" and next(site.desks) and not form then
    local out = callback(site, req.query)
    return answer(out.status or 200, document(out.title, html("<main><h1>{t}</h1>{b}</main>", { t = out.title, b = out.body })))
  end
  if not desk then return gone(404, site.operators and "There is nothing here, or its session has ended. Sign in again."
    or "There is nothing here, or its session has ended. `sallyport admin` opens a new one.", back) end
  if desk.who then desk.who.client = client.at end
  if form and not (is_own(client, came) and access.same(desk.form_key(rest), form.csrf)) then
    return gone(403, "This form was not sent from this page. Load the page again, and try once more.", back)
  end
  if rest == "out" and form then
    close(site, desk)
    return gone(200, "Signed out. You can close this window.")
  end
  if rest == "" and desk.first and not form then
    local first = desk.first
    desk.first = nil
    return page.see(desk.base .. first)
  end
  local out, here = require("web.desk_pages").answer(desk, rest, page.params(req.query) or {}, form)
  if not out then return framed(desk, "", { status = 404, title = "No such page",
    body = html('<p>There is nothing at this address. <a href="{b}">Home</a></p>', { b = desk.base }) }) end
  if out.see then return page.see(desk.base .. out.see) end
  return framed(desk, here, out)
end

-- A name of this machine, with the port that somebody has led here (ssh -L).
local function is_here(name) return name:find("^127%.0%.0%.1:%d+$") ~= nil or name:find("^localhost:%d+$") ~= nil end

--- The page for the store at `home`: { code, answer(req), over, names }. `over` is true once the person signed out, or nobody came
-- for an hour. names: { ["127.0.0.1:PORT"] = "http" | "https" }, set by the caller once it listens. with: nil for `sallyport admin`;
-- for `serve --admin` { url = "https://box.lan:7443" | nil, owner = uid }: operators sign in, as often as they like.
function M.new(home, with)
  local time = require "time"
  local site = { home = home, desks = {}, operators = with ~= nil, time = time, names = {} }
  site.now = function() return time.now() // 1000 end
  if not with then site.code, site.code_ends = access.random(), site.now() + CODE_LIFE end
  local scheme, authority = (with and with.url or ""):match("^(%a+)://(.+)$")
  local usual = authority and not authority:find(":%d+$") and authority .. (scheme == "https" and ":443" or ":80")
  --- The origin of pages under this name, where it is one of ours | nil. local_: the request came by the Unix socket.
  function site.origin(name, local_)
    if local_ then return is_here(name) and "http://" .. name or nil end
    if authority then return (name == authority or name == usual) and with.url or nil end
    return site.names[name] and site.names[name] .. "://" .. name or nil
  end
  --- Whether nobody came in time.
  function site.idle()
    local _, desk = next(site.desks)
    return site.now() > (desk and desk.seen + IDLE or site.code_ends)
  end
  function site.answer(req)
    local came, peer, port, uid = req:came()
    local out
    if port == 0 and uid ~= (with and with.owner) and uid ~= 0 then
      out = gone(403, "This socket is for the store's owner.")
    else
      local ok, got = pcall(respond, site, req, came, { at = peer, origin = site.origin((came.host or ""):lower(), port == 0) })
      if not ok then
        require("host").log(("ev=page path=\"%s\" err=\"%s\""):format(req.path:gsub("^/s/[^/]*", ""):sub(1, 100):gsub('[%c"]', "'"), tostring(got):sub(1, 300):gsub('[%c"]', "'")))
        got = gone(500, "This is a fault in sallyport: its standard error says more. Whether a change was made, the lists say.", req.path:match("^/s/[%w_-]+/") or "/")
      end
      if got and #got.body > require("web.body").ANSWER_MAX then got = gone(500, "This page would be longer than 8 MiB: the command line has it all.", req.path:match("^/s/[%w_-]+/")) end
      out = got
    end
    if out then req:respond(out.status, out.headers, out.body) end
  end
  return site
end

return M
