--- /approvals at the door: what agents ask for and what rules hold, and nothing else, for users with the permission `approve`, signed in.
-- A link in a message leads to one of them.
local changes = require "changes"
local page = require "web.page"
local sessions = require "web.sessions"
local html = page.sparse
local M = {}

local TRIES = 4             -- commits: others write the same records
local COMMIT = 10000        -- ms
local LIVE = "10"           -- s between two looks, where no script runs and the person asks for it
local LOOK = 5              -- s between two looks of the script
local REASON_MAX = 500
local CONNECT = 86400       -- s from an approval in which who may answer signs in to its accounts; later it is for whoever runs the box
local SHOWN_MAX = 100       -- of each kind; a page is read on a phone

local said = { once = "Allowed: the request goes on.", hour = "Allowed for an hour.", day = "Allowed for a day.", always = "Allowed from now on.",
  deny = "Refused.", approve = "Approved. It counts from the next request.", reject = "Rejected: the agent reads so when it looks.",
  connected = "Connected: the agent can use the account." }

local function hidden(name, value) return html('<input type="hidden" name="{name}" value="{value}">', { name = name, value = value }) end

-- Who asks, where they may; else nil and the page that says what is missing.
local function approver(q)
  local session = sessions.current(q)
  if not session then return nil, page.see("/login?" .. require("form").encode { { "next", q.path } }) end
  local user = session.user
  if not user.approve then return nil, page.says(403, "Not yours to answer", "Your account may not answer what agents ask. Whoever runs this box can let you.") end
  if user.totp_wanted and not user.totp then return nil, page.see("/login/totp?" .. require("form").encode { { "next", q.path } }) end
  return session
end

local function csrf(session, kind, id) return hidden("csrf", sessions.csrf(session.key, ("approve/%s/%s"):format(kind, id))) end

local function ends(at)
  local s = at - require("time").wall()
  return s < 3600 and ("%d min"):format(math.max(s, 0) // 60) or s < 172800 and ("%d h"):format(s // 3600) or ("%d days"):format(s // 86400)
end

local function gone()
  return page.page(404, "Nothing to answer", html '<p>It was answered already, or its time is over.</p><p><a href="/approvals">All that waits</a></p>')
end

-- ---- the list --------------------------------------------------------------------------------------

--- GET /approvals
function M.list(q)
  local session, out = approver(q)
  if not session then return out end
  local asked, waits, wall = {}, {}, require("time").wall()
  for _, row in ipairs(require("approvals").all()) do
    local r = row.record
    if r.boot and r.state == "open" and #asked < SHOWN_MAX then
      asked[#asked + 1] = html('<li><a href="/approvals/q/{id}"><strong>{agent}</strong>: {method} {url}</a><small>{reason}; ends in {ends}</small></li>',
        { id = r.question, agent = r.agent, method = r.method, url = r.url, reason = r.reason, ends = ends(r["until"]) })
    end
  end
  for _, row in ipairs(require("proposals").all()) do
    local r, hosts = row.record, {}
    if require("proposals").state(r, wall) == "pending" and #waits < SHOWN_MAX then
      for i, s in ipairs(r.services) do hosts[i] = s.host ~= "" and s.host or s.name end
      waits[#waits + 1] = html('<li><a href="/approvals/p/{id}"><strong>{agent}</strong>: {hosts}</a><small>ends in {ends}</small></li>',
        { id = r.proposal, agent = r.agent, hosts = table.concat(hosts, ", "), ends = ends(r["until"]) })
    end
  end
  local query = page.params(q.query) or {}
  local note = query.said and said[query.said]
  return page.page(200, "Approvals", html([[
{note}{lists}<noscript><p><a href="/approvals{to}">{live}</a></p></noscript>
<form method="post" action="/logout">{csrf}<button>Sign out</button></form>]], {
    note = note and html('<p role="status"><strong>{n}</strong></p>', { n = note }),
    lists = page.living(LOOK, html("<h2>Requests that wait</h2>{asked}<h2>What agents ask for</h2>{waits}", {
      asked = asked[1] and html("<ul>{l}</ul>", { l = asked }) or html "<p>None. A rule that asks holds a request here until somebody answers.</p>", waits = waits[1] and html("<ul>{l}</ul>", { l = waits }) or html "<p>Nothing. An agent that is refused a host reads in the answer how to ask.</p>" })),
    to = not query.live and "?live=on" or "", live = query.live and "Stop loading this page again" or "Load this page again every ten seconds",
    csrf = hidden("csrf", sessions.csrf(session.key, "logout")) }), query.live and { { "Refresh", LIVE } } or nil, nil, require "web.live")
end

-- ---- a request that waits --------------------------------------------------------------------------

local answers = { { "once", "Allow once" }, { "hour", "Allow for an hour" }, { "day", "Allow for a day" }, { "always", "Allow always" }, { "deny", "Refuse" } }

local function question_page(session, row, status, note)
  local r, buttons = row.record, {}
  for i, a in ipairs(answers) do
    buttons[i] = html('<button name="answer" value="{v}"{go}>{t}</button>', { v = a[1], t = a[2], go = i == 1 and html ' class="go"' })
  end
  return page.page(status, "May this go out?", html([[
{note}<p><strong>{agent}</strong> asks to send</p><p><code>{method} {url}</code></p>
<p>The rule <strong>{rule}</strong> asks you: {reason}</p>{body}<p>{credential}</p>{saw}
<p>An hour, a day and always cover, for this agent: <strong>{covers}</strong></p>
<form method="post" action="/approvals/q/{id}">{csrf}{buttons}</form><p><a href="/approvals">All that waits</a></p>]], {
    note = note and html('<p class="warn" role="alert">{n}</p>', { n = note }), agent = r.agent, method = r.method, url = r.url, rule = r.rule, reason = r.reason,
    body = r.bytes and html("<p><small>With a body of {n} bytes{t}, SHA-256 {s}</small></p>", { n = r.bytes, t = r.type and " of " .. r.type or "", s = r.sha256 }),
    credential = r.credential and ("It goes out with the credential %s."):format(r.credential) or "It goes out without a credential.",
    covers = r.covers, saw = page.saw(require("approvals").saw(r)), id = r.question, csrf = csrf(session, "q", r.question), buttons = buttons }))
end

-- The commit of what build() answers, for this person: true | nil, code
local function commit(q, session, build)
  local code
  for _ = 1, TRIES do
    local ops, why = build()
    if not ops then return nil, why end
    ops.context = changes.page(q, session.user.name)
    local ok
    ok, code = require("store").commit(ops, require("time").now() + COMMIT)
    if ok then return true end
    if code ~= "conflict" then break end
  end
  return nil, code
end

-- GET and POST /approvals/q/ID
local function question(q, session, id, form)
  local approvals = require "approvals"
  local row = approvals.named(id)
  if not row or not approvals.is_question(row.record) or row.record.state ~= "open" then return gone() end
  if not form then return question_page(session, row, 200) end
  if form.answer ~= "deny" and not approvals.is_span(form.answer) then return question_page(session, row, 400, "Choose an answer.") end
  local ok, code = commit(q, session, function()
    if form.answer == "deny" then return approvals.deny(id) end
    return approvals.allow(id, form.answer)
  end)
  if ok then return page.see("/approvals?said=" .. form.answer) end
  if code == "absent" or code == "answered" then return gone() end
  return question_page(session, row, 503, code == "rule_gone" and "The rule is gone." or "The answer could not be kept. Try again.")
end

-- ---- a proposal ------------------------------------------------------------------------------------

local function input(name, label, help, kind, value)
  return html('<label>{l}<input name="{n}" type="{k}" autocomplete="off" autocapitalize="none" spellcheck="false" value="{v}"><small>{h}</small></label>',
    { n = name, l = label, k = kind, h = help, v = value or "" })
end

-- form: what was sent, where it comes back for a fault: what was left out and made narrower stays so, secrets are typed again.
local function proposal_page(session, row, status, note, form)
  local r, services, inputs = row.record, {}, {}
  local says = require("proposals").says(r, require("proposals").holders(r.bundle))
  for i, s in ipairs(r.services) do
    local places = {}
    for j, x in ipairs(s.rows or {}) do
      local name, _, _, text = ("w.%d.%d"):format(i, j), require("proposals").unnamed(x, s)
      if text then places[#places + 1] = input(name, "Where " .. x.placeholder .. " stands", text .. ".", "text", form and form[name]) end
    end
    services[i] = html([[
<fieldset><legend>{name}</legend><label class="pick"><input type="checkbox" name="s.{i}" value="on"{on}> {says}</label>{warning}{places}{narrow}</fieldset>]], { places = places,
      on = (not form or form["s." .. i]) and html " checked", name = s.name, i = i, says = says[i].text, warning = says[i].warning and html('<p class="warn">Careful: {w}.</p>', { w = says[i].warning }),
      narrow = not s.remove and { input("h." .. i, "Host", nil, "text", form and form["h." .. i] or s.host), input("p." .. i, "Below this path alone", nil, "text", form and form["p." .. i] or s.path),
        input("m." .. i, "With these methods alone", s.kind == "passthrough" and "GET, HEAD and OPTIONS unless named." or "All unless named. GET: reading alone.", "text", form and form["m." .. i]) } })
  end
  local labels = require("granting").labels(r)
  for _, c in ipairs(r.credentials) do
    local help = page.obtained(c)
    if c.oauth then
      if not c.oauth.client_id then inputs[#inputs + 1] = input("k." .. c.key .. ".client_id", c.key .. ": client id", help, "text") end
      inputs[#inputs + 1] = input("k." .. c.key .. ".client_secret", c.key .. ": client secret, where the client has one", help, "password")
      for _, t in ipairs { "refresh", "access" } do
        inputs[#inputs + 1] = input(("k.%s.%s_token"):format(c.key, t), ("%s: %s token, to paste one that is there"):format(c.key, t),
          t == "refresh" and html("It is tried at once. Without one you sign in next; the client has to know the redirect URI {uri}", { uri = require("web.consent").redirect_uri() }), "password")
      end
    else
      inputs[#inputs + 1] = { input("k." .. c.key, c.key, help, labels[c.key] == "plain" and "text" or "password"), (c.sent or c.text) and page.sent(c.key, c.text, form) }
    end
  end
  return page.page(status, "Proposal of " .. r.agent, html([[
{note}<p>{words}</p><p><small>Ends in {ends}. These are the agent's words: look at the hosts, not at them.</small></p>
<form method="post" action="/approvals/p/{id}">{csrf}{services}{inputs}<button class="go" name="answer" value="approve">Approve what is chosen</button></form>
<form method="post" action="/approvals/p/{id}">{csrf}<label>Why not<input name="reason" maxlength="{max}"></label><button name="answer" value="reject">Reject</button></form>
<p><a href="/approvals">All that waits</a></p>]], { note = note and html('<p class="warn" role="alert">{n}</p>', { n = note }), words = r.user_message or r.message or "It says nothing.",
    ends = ends(r["until"]), id = r.proposal, csrf = csrf(session, "p", r.proposal), services = services, inputs = inputs, max = REASON_MAX }))
end

-- What was typed, by label: secrets as handles. nil, why
local function given_of(r, form)
  local out, fields = {}, require "cli.fields"
  for label, kind in pairs(require("granting").labels(r)) do
    local text = form["k." .. label] or ""
    if text ~= "" and kind == "plain" then
      if text:find("%c") then return nil, label .. " has a control byte in it" end
      out[label] = text
    elseif text ~= "" then
      local ok, value = pcall(fields.secret, { typed = { [label] = text } }, { from = "stdin" }, label)
      if not ok then return nil, type(value) == "table" and value.message or "that cannot be a secret" end
      out[label] = value
    end
  end
  return out
end

-- What was approved and waits for a sign-in: its accounts, each with a link to the provider's own page.
local function accounts_page(q, session, row, note)
  local links = {}
  for i, a in ipairs(require("granting").unconnected(row.record, CONNECT)) do
    local url, why = require("web.consent").at_door(q, session, a.name, row.record.proposal .. "-" .. a.at)
    links[i] = url and html('<p><a class="button" rel="noreferrer" href="{u}">Sign in for {n} at {h}</a></p>', { u = url, n = a.name, h = a.host })
      or html("<p>{n}: {w}</p>", { n = a.name, w = why })
  end
  if not links[1] then return nil end
  return page.page(note and 400 or 200, "Sign in to the account", html([[
{note}<p>What was asked for is approved. Its account is used once somebody has signed in, on the provider's own page, which comes back here.
The client has to know the redirect URI <code>{uri}</code></p>{links}<p><a href="/approvals">All that waits</a></p>]],
    { note = note and html('<p class="warn" role="alert">{n}</p>', { n = note }), uri = require("web.consent").redirect_uri(), links = links }))
end

-- GET /approvals/callback: the browser comes back from the provider.
local function callback(q, session)
  local consent = require "web.consent"
  local about, state = consent.about(q, session)
  local id, i = tostring(about):match("^(%x+)%-(%d+)$")
  local row = id and require("proposals").named(id)
  local account
  for _, a in ipairs(row and require("granting").unconnected(row.record, CONNECT) or {}) do
    if a.at == tonumber(i) then account = a end
  end
  if not account then return page.says(400, "Not connected", "This sign-in was not begun here, has ended, or somebody else was faster. Go back to what was approved.") end
  local ok, why = consent.back(q, session, account.name, state, changes.page(q, session.user.name))
  if ok then return page.see(require("granting").unconnected(row.record, CONNECT)[1] and "/approvals/p/" .. id or "/approvals?said=connected") end
  return accounts_page(q, session, row, ("'%s' was not connected: %s."):format(account.name, why)) or gone()
end

-- GET and POST /approvals/p/ID
local function proposal(q, session, id, form)
  local proposals, granting = require "proposals", require "granting"
  local row = require("proposals").named(id)
  if row and not form and row.record.state == "applied" then return accounts_page(q, session, row) or gone() end
  if not row or proposals.state(row.record, require("time").wall()) ~= "pending" then return gone() end
  if not form then return proposal_page(session, row, 200) end
  local r, context = row.record, changes.page(q, session.user.name)
  local ok, trouble, _, accounts
  if form.answer == "reject" then
    local reason = page.clean(form.reason, REASON_MAX)
    ok, trouble = pcall(granting.reject, row, reason and #reason <= REASON_MAX and reason or nil, context)
  elseif form.answer == "approve" then
    local only, hosts, paths, methods, places = {}, {}, {}, {}, {}
    for i, s in ipairs(r.services) do
      only[s.name] = form["s." .. i] and true or nil
      local host, path = form["h." .. i] or "", form["p." .. i] or ""
      local why
      if only[s.name] and not s.remove then
        hosts[s.name], paths[s.name], why = proposals.narrowed(s, host ~= "" and host or nil, path ~= "" and path or nil)
        if not why then methods[s.name], why = proposals.methods(s, form["m." .. i] or "") end
        places[s.name] = {}
        for j, x in ipairs(s.rows or {}) do places[s.name][x.placeholder] = form[("w.%d.%d"):format(i, j)] end
      end
      if why then return proposal_page(session, row, 400, ("%s: %s"):format(s.name, why), form) end
    end
    local use = {}
    for _, c in ipairs(r.credentials) do use[c.key] = form["u." .. c.key] and true or nil end
    local given, why = given_of(r, form)
    if not given then return proposal_page(session, row, 400, why, form) end
    ok, trouble, _, accounts = pcall(granting.approve, row, given, { home = require("store").home, only = only, hosts = hosts, paths = paths, methods = methods, places = places, use = use, page = true, add_only = true,
      context = context, env = require("cli.authorization").env_of(q.pipeline, require "host") })
  else
    return proposal_page(session, row, 400, "Choose an answer.", form)
  end
  if ok and accounts and accounts[1] then return page.see("/approvals/p/" .. id) end
  if ok then return page.see("/approvals?said=" .. form.answer) end
  if type(trouble) ~= "table" or not trouble.exit then
    require("host").log(("ev=approval_failed msg=%q"):format(tostring(trouble)))
    return proposal_page(session, row, 503, "It could not be kept.", form)
  end
  return proposal_page(session, row, 400, trouble.message, form)
end

local kinds = { q = question, p = proposal }

--- GET and POST /approvals/KIND/ID: one of them, and nothing beside it.
function M.one(q)
  local session, out = approver(q)
  if not session then return out end
  if q.path == "/approvals/callback" and q.method ~= "POST" then return callback(q, session) end
  local kind, id = q.path:match("^/approvals/([pq])/(%x+)$")
  if not kind then return gone() end
  local form, twice
  if q.method == "POST" then
    form, twice = page.posted(q)
    if not form or twice or not sessions.csrf_ok(session.key, ("approve/%s/%s"):format(kind, id), form.csrf) then
      return page.says(400, "This request cannot go on", "The form was not filled in here, or too long ago. Go back and try again.")
    end
  end
  return kinds[kind](q, session, id, form)
end

return M
