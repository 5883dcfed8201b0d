--- The operator's page: who may see it, its frame, and which address shows what. `sallyport admin` serves it on a loopback
-- port, to which every program of this machine can connect, and whose cookies other servers on other ports see: so a session
-- is a random path together with a cookie for that path, and neither is worth anything alone. No page needs a script.
local access = require "web.access"
local api = require "web.api"
local page = require "web.page"
local html = page.sparse
local M = {}

local CODE_LIFE = 600           -- s from the start of the command to the sign-in
local IDLE = 3600               -- s without a request: the session ends
local FORM_MAX = 1 << 20        -- bytes of a form: a policy's source is in it

local STYLE = [[
:root{color-scheme:light dark;--ink:#1b1d21;--dim:#585d66;--line:#d9dce1;--back:#fbfbfc;--card:#fff;--go:#0b57d0;--on:#fff;--bad:#b3261e;--good:#146c2e}
@media(prefers-color-scheme:dark){:root{--ink:#e8e9ec;--dim:#a3a8b2;--line:#3a3d44;--back:#17181b;--card:#1f2125;--go:#8ab4f8;--on:#0e1c36;--bad:#f2b8b5;--good:#81c995}}
*{box-sizing:border-box}
body{margin:0;font:1rem/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back)}
a{color:var(--go)}
header{border-bottom:1px solid var(--line);background:var(--card)}
nav,main{max-width:64rem;margin:0 auto;padding:.5rem 1rem}
nav ul{display:flex;flex-wrap:wrap;gap:.1rem .4rem;list-style:none;margin:0;padding:0;align-items:center}
nav a{display:block;padding:.4rem .5rem;border-radius:.4rem;text-decoration:none;color:inherit}
nav a[aria-current]{background:var(--go);color:var(--on)}
nav form{margin-left:auto}
.skip{position:absolute;left:-99rem;white-space:nowrap}.skip:focus{left:1rem}
main{padding:1rem 1rem 4rem;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.2;margin:1rem 0}
h2{font-size:1.15rem;margin:2rem 0 .5rem}
p{max-width:44rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:.5rem .75rem .5rem 0;border-bottom:1px solid var(--line);overflow-wrap:normal}
th{font-weight:600;color:var(--dim);font-size:.875rem}
td.n,th.n{text-align:right}
dl{display:grid;grid-template-columns:minmax(6rem,12rem) 1fr;gap:.3rem 1rem;margin:0}
dt{color:var(--dim)}dd{margin:0}
small,.dim{color:var(--dim);font-size:.875rem}label~small,label+*+small{display:block;max-width:36rem}
label,.label{display:block;margin:1rem 0 .2rem;font-weight:600}
label.on{font-weight:400}
input,select,textarea,button,.button{font:inherit;color:inherit;background:var(--card);border:1px solid var(--dim);border-radius:.4rem;padding:.45rem .6rem;min-height:2.5rem}
input:not([type=checkbox]),select,textarea{width:100%;max-width:36rem}
input[type=checkbox]{min-height:0;width:1.25rem;height:1.25rem;vertical-align:middle}
textarea.code{font:.875rem/1.5 ui-monospace,monospace;max-width:none;white-space:pre;tab-size:2}
button,.button{cursor:pointer;text-decoration:none;display:inline-block;line-height:1.5}
button.go,.button.go{background:var(--go);color:var(--on);border-color:var(--go)}
.row{display:flex;flex-wrap:wrap;gap:.5rem;align-items:end;margin:1rem 0}.row label{margin:0}.row input{font-weight:400}.row input,.row select{width:auto}
.note,.warn{border-left:.25rem solid var(--go);padding:.5rem .75rem;background:var(--card);margin:1rem 0;max-width:44rem;white-space:pre-line}
.warn{border-color:var(--bad)}
.bad{color:var(--bad)}.good{color:var(--good)}
pre,code{font:.875rem/1.5 ui-monospace,monospace}
pre{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.75rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.75rem;list-style:none;padding:0}
.cards a{display:block;height:100%;padding:.75rem;border:1px solid var(--line);border-radius:.5rem;background:var(--card);text-decoration:none;color:inherit}
.cards a:hover{border-color:var(--go)}
svg{width:100%;height:auto;max-width:44rem}
svg .ok{fill:var(--go)}svg .no{fill:var(--bad)}svg text{fill:var(--dim);font-size:11px}
:focus-visible{outline:3px solid #f90;outline-offset:2px}
@media(max-width:40rem){dl{grid-template-columns:1fr}dd{margin-bottom:.5rem}nav form{margin:0}}
]]

local places = { { "", "Home" }, { "connect", "Connect an app" }, { "credentials", "Credentials" }, { "agents", "Agents" },
  { "bundles", "Bundles" }, { "rules", "Rules" }, { "approvals", "Approvals" }, { "policies", "Policies" }, { "log", "Log" },
    { "door", "Door" }, { "settings", "Settings" } }

-- ---- the frame -----------------------------------------------------------------------------------

local OWN = { { "Cross-Origin-Opener-Policy", "same-origin" }, { "Cross-Origin-Resource-Policy", "same-origin" } }

local function answer(status, text, more)
  local fields = table.move(OWN, 1, #OWN, 1, {})
  fields[#fields + 1] = more
  return page.document(status, text, STYLE, fields)
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
  local live = out.live and html('<meta http-equiv="refresh" content="{s}">', { s = out.live })
  return answer(out.status or 200, document(out.title, html([[
<a class="skip" href="#main">To the page</a><header><nav aria-label="Parts"><ul>{items}<li>
<form method="post" action="{base}out">{csrf}<button>Sign out</button></form></li></ul></nav></header>
<main id="main"><h1>{title}</h1>{body}</main>]], { items = items, base = desk.base, title = out.title, body = out.body,
    csrf = desk.csrf "out" }), live))
end

local function gone(status, text)
  return answer(status, document("Sallyport", html('<main><h1>Sallyport</h1><p>{text}</p></main>', { text = text })))
end

-- ---- who may -------------------------------------------------------------------------------------

-- POST /start with the code, once: the session's cookie, and a page that leads to it. The browser comes from a file, whose
-- requests are of another site; so do its redirects, which SameSite=Strict cookies do not follow. A page of ours can lead on.
local function start(desk, req, form)
  local code = form and form.code
  if req.method ~= "POST" then
    return answer(200, document("Sign in", html([[
<main><h1>Sallyport</h1><p>This opens the page of the box at <code>{home}</code> in this browser.</p><form method="post" action="/start">
<input type="hidden" name="code" value="{code}"><button class="go">Open Sallyport</button></form></main>]],
      { home = desk.home, code = page.clean(page.params(req.query) and page.params(req.query).code, 64) or "" })))
  end
  if not desk.code or desk.now() > desk.code_ends or not access.same(desk.code, code) then
    return gone(403, "This link was used, or is older than ten minutes. Run `sallyport admin` again.")
  end
  desk.code, desk.path, desk.key = nil, access.random(), access.random()
  desk.base, desk.seen = "/s/" .. desk.path .. "/", desk.now()
  return answer(200, document("Signed in", html('<main><p>Signed in. <a href="{base}">Go on</a></p></main>',
    { base = desk.base }),
    html('<meta http-equiv="refresh" content="0;url={base}">', { base = desk.base })),
    { "Set-Cookie", ("sallyport=%s; Path=%s; HttpOnly; SameSite=Strict"):format(desk.key, desk.base) })
end

-- The rest of the path behind the session's own, where both path and cookie are right | nil
local function inside(desk, q, path)
  local shown, rest = path:match("^/s/([%w_-]+)/(.*)$")
  if not desk.path or not shown or not access.same(desk.path, shown)
    or not access.same(desk.key, require("web.sessions").cookie(q, "sallyport")) then return nil end
  if desk.now() - desk.seen > IDLE then
    desk.path, desk.key, desk.over = nil, nil, true
    return nil
  end
  desk.seen = desk.now()
  return rest
end

-- A program with a token: a session's cookie is nothing here, so no form of another site's is either.
local function asked(desk, req, came)
  local body = require("web.body").read(desk, req, api.BODY_MAX)
  return body and api.handle { home = desk.home, method = req.method, path = req.path, query = req.query,
    header = function(name) return came[name] end, body = type(body) == "string" and body or "" }
end

local function respond(desk, req, came)
  local origin = "http://" .. desk.at
  -- A name that somebody has pointed at this address is not ours (DNS rebinding).
  if came.host ~= desk.at then return gone(421, "This is not an address of this page.") end
  if api.is(req.path) then return asked(desk, req, came) end
  local q, form, twice = { header = function(name) return came[name] end }, nil, nil
  if req.method == "POST" then
    local body = require("web.body").read(desk, req, FORM_MAX)
    if not body then return nil end
    q.body = type(body) == "string" and body or ""
    form, twice = page.posted(q)
    if not form or twice then return gone(400, "That was no form of this page.") end
  elseif req.method ~= "GET" and req.method ~= "HEAD" then
    return { status = 405, headers = { { "Allow", "GET, HEAD, POST" } }, body = "" }
  end
  if req.path == "/start" then return start(desk, req, form) end
  if req.path == "/callback" and desk.path and not form then
    local out = require("web.desk_pages").callback(desk, req.query)
    return answer(out.status or 200, document(out.title, html("<main><h1>{t}</h1>{b}</main>", { t = out.title, b = out.body })))
  end
  local rest = inside(desk, q, req.path)
  if not rest then return gone(404, "There is nothing here, or its session has ended. `sallyport admin` opens a new one.") end
  if form then
    local site = came["sec-fetch-site"]
    if came.origin ~= origin or site and site ~= "same-origin" or not access.same(desk.form_key(rest), form.csrf) then
      return gone(403, "This form was not sent from this page. Go back, load the page again, and try once more.")
    end
  end
  if rest == "out" and form then
    desk.path, desk.key, desk.over = nil, nil, true
    return gone(200, "Signed out. You can close this window.")
  end
  local out, here = require("web.desk_pages").answer(desk, rest, page.params(req.query) or {}, form)
  if not out then return framed(desk, "", { status = 404, title = "No such page",
    body = html "<p>There is nothing at this address.</p>" }) end
  if out.see then return page.see(desk.base .. out.see) end
  return framed(desk, here, out)
end

--- A desk for the store at `home`: { code, answer(req), over }. `over` is true once the person signed out, or nobody came
-- for an hour. at: "127.0.0.1:PORT", set by the caller once it listens.
function M.new(home)
  local time = require "time"
  local desk = { home = home, code = access.random(), kept = {}, time = time }
  desk.now = function() return time.now() // 1000 end
  desk.code_ends = desk.now() + CODE_LIFE
  function desk.form_key(rest) return access.hash("desk", desk.key .. " " .. rest) end
  --- The hidden field of a form that is posted to this address.
  function desk.csrf(rest) return html('<input type="hidden" name="csrf" value="{key}">', { key = desk.form_key(rest) }) end
  --- Whether nobody came in time.
  function desk.idle() return desk.now() > (desk.path and desk.seen + IDLE or desk.code_ends) end
  function desk.answer(req)
    local came = req:came()
    local out = respond(desk, req, came)
    if out then req:respond(out.status, out.headers, req.method == "HEAD" and "" or out.body) end
  end
  return desk
end

return M
