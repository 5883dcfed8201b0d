--- What the operator's page shows: each part of the box as the commands tell it, and links to the forms that change it.
local bounds = require "web.bounds"
local commands = require "web.commands"
local forms = require "web.desk_forms"
local page = require "web.page"
local html = page.sparse
local M = {}

local CHART_MAX = 20000         -- newest records that a day's chart looks at
local LOG_ROWS = 100
local LOOK = 5000               -- newest records among which one is looked up
local LATELY = 5                -- records beside a credential or an agent
local AGENTS = 20               -- that a credential's page asks about
local SUGGESTED = 10            -- refused hosts
local ASKED = 40                -- of them that are asked about, for what was opened since
local ROWS = 1000               -- of a list
local CONSENT = 600             -- s for a person at the provider's page, as `connect` has
local SOURCE_MAX = 256 << 10
local SAID = 6                  -- items of a list in a cell
local SPARE_LINES = 200         -- numbers behind a policy's last line, for what is typed

local living = page.living

local again = { "Load it again every five seconds", "Stop loading it again every five seconds" }

local function ask(desk, ...)
  return commands.run({ ... }, { home = desk.home, asked = desk.who })
end

local function lines(desk, ...)
  local out = {}
  for i, line in ipairs(commands.run({ ... }, { home = desk.home, asked = desk.who, lines = true }).value) do
    out[i] = require("json").decode(line) or {}
  end
  return out
end

-- A list of rows as a table; a cell is a text or a piece. A column without a title has one for those who hear the page. On a narrow
-- screen a row is a block, and each cell says by data-t what it is.
local function grid(titles, rows, numbers)
  local head, body, more = {}, {}, #rows - ROWS
  for i, t in ipairs(titles) do head[i] = html('<th scope="col"{n}>{t}</th>',
    { t = t ~= "" and t or html '<span class="skip">More</span>',
    n = numbers and numbers[i] and html ' class="n"' }) end
  for i = 1, math.min(#rows, ROWS) do
    local row, cells = rows[i], {}
    for j = 1, #titles do
      local v = row[j]
      cells[j] = html("<td{n}{t}>{v}</td>", { v = v == nil and "" or v, n = numbers and numbers[j] and html ' class="n"',
        t = titles[j] ~= "" and html(' data-t="{t}"', { t = titles[j] }) })
    end
    body[i] = html("<tr>{cells}</tr>", { cells = cells })
  end
  return html('<div class="wide" tabindex="0" role="region" aria-label="{about}"><table>'
    .. "<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}", { head = head, body = body,
    more = more > 0 and html("<p>And {n} more, which the command line lists.</p>", { n = more }),
    about = table.concat(titles, " "):match("^%s*(.-)%s*$") .. ", a table" })
end

local function joined(v, most)
  if type(v) ~= "table" then return v end
  local out = {}
  for i, x in ipairs(v) do
    if most and i == most and #v > most then
      out[i] = ("and %d more"):format(#v - most + 1)
      break
    end
    out[i] = type(x) == "table" and (x.host or x.name or x.label or require("json").encode(x)) or tostring(x)
  end
  return table.concat(out, ", ")
end

local function link(desk, path, query, text, class)
  return html('<a href="{base}{path}{q}"{class}>{t}</a>',
    { base = desk.base, path = path, t = text, class = class and html(' class="{c}"', { c = class }),
    q = query and "?" .. require("form").encode(query) or "" })
end

local function buttons(list) return html('<div class="row">{list}</div>', { list = list }) end

local function several(n, word) return ("%d %s%s"):format(n or 0, word, n == 1 and "" or "s") end

local ago = forms.ago

local function wrong(got)
  return html('<p class="warn" role="alert">{m}</p>', { m = page.prose(got.error and got.error.message or "This cannot be read now.") })
end

-- What is wrong with a credential, in words; where signing in mends it, with the way there.
local function trouble(desk, name, why)
  local said = why:match("^(.-):? sallyport connect ")
  return said and html("{w}: {l}", { w = said, l = link(desk, "account/" .. name, nil, said == "not connected" and "connect it" or "sign in to the account") }) or why
end

-- ---- records -------------------------------------------------------------------------------------

-- What was decided of a record, and what it was about.
local function said(r)
  if r.kind == "change" then return html('<span class="dim">change</span>') end
  return html('<span class="{c}">{d}</span>', { c = r.decision == "deny" and "bad" or "good", d = r.decision or "" })
end

local function what(r)
  if r.kind == "change" then
    local names = {}
    for i, c in ipairs(r.changes or {}) do names[i] = ("%s %s"):format(c.record, c.did) end
    return table.concat(names, ", ")
  end
  return ("%s %s%s"):format(r.method or "", r.host or "", r.path or "")
end

-- The newest of the records that `args` find, as a table.
local function records_of(desk, args)
  local got, rows = commands.run(args, { home = desk.home, asked = desk.who, lines = true }), {}
  for i = #got.value, 1, -1 do
    local r = require("json").decode(got.value[i])
    if r and r.time then
      rows[#rows + 1] = { ago(r.time), said(r), r.agent or r.by or "", html('<span class="any">{w}</span>', { w = what(r) }), r.error or r.credential or r.reason or "", r.status or "",
        r.ms or "",
        r.request and link(desk, "record", { { "id", r.request } }, "Look") or "" }
    end
  end
  return rows[1] and grid({ "When", "Kind", "Who", "What", "Credential or reason", "Status", "ms", "" }, rows, { [6] = true, [7] = true }), got
end

-- ---- home ----------------------------------------------------------------------------------------

local function chart(desk)
  local now = require("time").wall()
  local first = now // 3600 - 23
  local ok, no = {}, {}
  for i = 1, 24 do ok[i], no[i] = 0, 0 end
  for _, r in ipairs(lines(desk, "log", "--kind", "request", "--since", "24h", "--newest", tostring(CHART_MAX))) do
    local y, m, d, hh = (r.time or ""):match("^(%d+)-(%d+)-(%d+)T(%d+)")
    local i = y and require("dates").seconds(y, m, d, hh, 0, 0) // 3600 - first + 1 or 0
    if i >= 1 and i <= 24 and (r.decision == "deny" or not require("cli.log_summary").stayed(r)) then
      local n, to = r.count or 1, r.decision == "deny" and no or ok
      to[i] = to[i] + n
    end
  end
  local most, bars, rows, sent, refused = 1, {}, {}, 0, 0
  for i = 1, 24 do most = math.max(most, ok[i] + no[i]) end
  for i = 1, 24 do
    local a, b = ok[i] * 90 // most, no[i] * 90 // most
    if no[i] > 0 and b == 0 then b = 1 end
    if ok[i] > 0 and a == 0 then a = 1 end
    bars[i] = html('<rect class="ok" x="{x}" y="{y}" width="18" height="{h}"/><rect class="no" x="{x}" y="{z}" width="18" height="{k}"/>',
      { x = 20 * (i - 1) + 1, y = 100 - a, h = a, z = 100 - a - b, k = b })
    rows[i] = { ("%02d:00"):format((first + i - 1) % 24), ok[i], no[i] }
    sent, refused = sent + ok[i], refused + no[i]
  end
  if sent + refused == 0 then
    return html("<p>No request came in the last day. {agent} and paste what {env} prints into its shell.</p>",
      { agent = link(desk, "do/agent/add", nil, "Add an agent"), env = html "<code>sallyport env</code>" })
  end
  return html([[<p><i class="ok"></i> {many} went out in the last day, <i class="no"></i> {refused} {was} refused.</p>
<svg viewBox="0 0 480 101" role="img" aria-label="Requests by hour of the last day: {sent} went out, {refused} {was} refused"><rect class="base" y="100" width="480" height="1"/>{bars}</svg>
<p class="ends dim"><span>{from}</span><span>now</span></p>
<details><summary>As a table</summary>{rows}</details>]],
    { sent = sent, many = several(sent, "request"), refused = refused, was = refused == 1 and "was" or "were", bars = bars, from = ("%02d:00 UTC"):format(first % 24),
    rows = grid({ "Hour (UTC)", "Went out", "Refused" }, rows, { false, true, true }) })
end

local function home(desk)
  local s, troubles, pending = ask(desk, "status").value or {}, {}, nil
  for _, t in ipairs(s.credentials and s.credentials.troubled or {}) do
    troubles[#troubles + 1] = { link(desk, "credentials/" .. t.name, nil, t.name), trouble(desk, t.name, t.why) }
  end
  for _, a in ipairs(s.agents and s.agents.ending or {}) do
    troubles[#troubles + 1] = { link(desk, "agents/" .. a.name, nil, a.name),
    html("its token ends {t}", { t = ago(a.expires_at) }) } end
  for _, d in ipairs(commands.doctor(desk.home).value or {}) do
    if d.level ~= "ok" then troubles[#troubles + 1] = { d.check,
      html("{t}{f}", { t = d.text, f = d.fix and html("<br><small>{f}</small>", { f = d.fix }) or false }) } end
  end
  local held = commands.find "approval list" and ask(desk, "approval", "list").value
  local open = 0
  for _, q in ipairs(type(held) == "table" and held or {}) do open = open + (q.state == "open" and 1 or 0) end
  if open > 0 then
    pending = html('<p class="note">{n} a person. {l}</p>',
      { n = several(open, "request") .. (open == 1 and " waits for" or " wait for"),
      l = link(desk, "approvals", nil, "Look at them") })
  end
  local asked = 0
  for _, p in ipairs(ask(desk, "proposal", "list").value or {}) do asked = asked + (p.state == "pending" and 1 or 0) end
  if asked > 0 then
    pending = html('{before}<p class="note">{n} of agents {w} for an answer. {l}</p>',
      { before = pending, n = several(asked, "proposal"), w = asked == 1 and "waits" or "wait",
      l = link(desk, "approvals", nil, "Look") })
  end
  return { title = "Home", live = true, body = html("{live}{go}", { live = living(10, html([[
<p>{runs} {agents}, {credentials}.</p>{pending}<h2>The last day</h2>{chart}<h2>What needs you</h2>{troubles}]], {
    runs = s.running and html("The proxy runs on <code>{at}</code>.", { at = table.concat(s.listen or {}, ", ") })
      or html '<strong class="bad">No proxy runs.</strong> Start one with <code>sallyport serve</code>.',
    agents = several(s.agents and s.agents.active, "agent"),
      credentials = several(s.credentials and s.credentials.enabled, "credential"), pending = pending or false,
      chart = chart(desk),
    troubles = troubles[1] and grid({ "What", "Why" }, troubles) or html '<p class="good">Nothing: every check passes.</p>' })),
    go = buttons { link(desk, "connect", nil, "Connect an app", "button go"),
      link(desk, "explain", nil, "Explain a request", "button") } }), line = { "status" } }
end

-- ---- connect an app ------------------------------------------------------------------------------

local function connect(desk, query)
  local cards = {}
  for _, p in ipairs(ask(desk, "credential", "presets").value or {}) do
    local text, all = table.concat({ p.title, p.name, table.concat(p.words, " "), table.concat(p.hosts, " ") }, " "):lower(), true
    for word in (query.q or ""):lower():gmatch("%S+") do all = all and text:find(word, 1, true) ~= nil end
    if all then
      cards[#cards + 1] = html('<li><a href="{base}do/credential/add?o.preset={n}&amp;a1={n}"><strong>{t}</strong><br><small>{h}</small></a></li>',
        { base = desk.base, n = p.name, t = p.title, h = table.concat(p.hosts, ", ") })
    end
  end
  return { title = "Connect an app", line = { "credential", "presets" }, body = html([[
<form class="row" method="get" action="{base}connect"><label>Name of the app<br><input name="q" value="{q}" type="search" size="24" maxlength="2000"></label><button>Search</button></form>
<p>{none}{go} is any API: say how it wants its key, and to which hosts the key may go.</p><ul class="cards">{cards}</ul>]], {
    base = desk.base, q = query.q or "", none = not cards[1] and "No app of that name is known. ", cards = cards,
    go = link(desk, "do/credential/add", nil, "Another app") }) }
end

-- ---- lists ---------------------------------------------------------------------------------------

local function count(v) return type(v) == "table" and #v or 0 end

-- How a credential stands: what keeps it from working, else whether it is enabled.
local function standing(desk, c)
  local record = c.state == "enabled" and require("store").peek("credential", c.name)
  local why = record and require("troubles").of(record, require("time").wall())
  return why and html('<span class="bad">{w}</span>', { w = trouble(desk, c.name, why) }) or c.state
end

-- family, columns { title, member | f(item), whether it is a number }, what stands there where it is empty, verbs of one item.
local lists = {
  credentials = { "credential", { { "Type", "type" }, { "Hosts", "hosts" }, { "Bundles", "bundles" }, { "State", function(c, _, desk) return standing(desk, c) end } },
    "There is none yet: connect an app, and its key never leaves this box again.",
      { "set", "test", "enable", "disable", "remove" }, { "connect", "Connect an app" } },
  agents = { "agent", { { "Bundles", "bundles" }, { "State", "state" }, { "Tokens", function(a) return count(a.tokens) end, true },
    { "Ends", function(a) return ago(a.expires_at) end } },
    "There is none yet: an agent is whoever may send requests here.", { "set", "rotate", "enable", "disable", "revoke", "remove" },
      { "do/agent/add", "Add an agent" } },
  bundles = { "bundle", { { "State", "state" }, { "Credentials", "credentials" }, { "Agents", "agents" }, { "Tenants", "tenants" }, { "Hosts", "domains" } }, "",
    { "attach", "detach", "set", "enable", "disable", "remove" }, { "do/bundle/add", "Add a bundle" } },
  rules = { "rule", { { "Type", "type" }, { "Counted", function(r, counted) return counted[r.name] or "" end },
    { "State", "state" }, { "Bundle", "bundle" }, { "Place", "place", true } },
    "There is none yet: a rule can refuse what a bundle allows, by hour, size, rate or content.",
      { "set", "move", "enable", "disable", "remove" }, { "do/rule/add", "Add a rule" } },
  users = { "user", { { "State", "state" }, { "Tenants",
    function(u) return forms.said(u.tenants) end }, { "May", function(u)
      return (u.operator and "operate" or "") .. (u.operator and u.approve and ", " or "") .. (u.approve and "approve" or "") end } }, "Nobody signs in at the door yet.",
    { "set", "disable", "remove" }, { "do/user/add", "Add a person" } },
  tenants = { "tenant", { { "State", "state" }, { "Bundles", "bundles" } }, "There is none yet: a connection acts as one, with its bundles.",
    { "set", "remove" }, { "do/tenant/add", "Add a tenant" } },
  gateways = { "gateway", { { "Published at", "address" }, { "Server", "url" }, { "Credential", "credential" } },
    "No MCP server is published yet.", { "scope", "remove" }, { "do/gateway/add", "Publish a server" } },
  connections = { "connection", { { "Who", "user" }, { "Program", "client" }, { "Tenant", "tenant" }, { "Gateway", "gateway" },
    { "Used", function(c) return ago(c.used_at) end } }, "Nothing is connected yet: a program is, once somebody signed in there with a gateway's address.", { "revoke" } },
  keys = { "key", { { "State", "state" }, { "Tenant", "tenant" }, { "Role", "role" },
    { "Ends", function(k) return ago(k.expires_at) end } }, "There is none yet: a key is for programs that cannot sign in.", { "revoke" }, { "do/key/add", "Add a key" } },
  roles = { "role", { { "Scopes", function(r) return r.all and "all" or r.scopes end } }, "", { "add", "remove" }, { "do/role/add", "Add a role" } },
  clients = { "client", { { "Program", "name" }, { "Source", "source" } }, "There is none yet: most programs register by themselves when somebody connects them.", { "remove" },
    { "do/client/add", "Add a client" } },
  proposals = { "proposal", { { "State", "state" }, { "Agent", "agent" }, { "Hosts", function(p) return joined(p.services) end },
    { "Ends", function(p) return ago(p.expires_at) end } },
    "No agent has asked for anything. One that is refused a host reads in the answer how to ask.", {} },
  approvals = { "approval", { { "State", "state" }, { "Agent", "agent" }, { "Rule", "rule" },
    { "Request", function(q) return html('<span class="any">{m} {u}</span>', { m = q.method, u = q.url }) end },
    { "Ends", function(q) return ago(q.expires_at) end } },
    "Nothing waits for a person. A rule that asks holds a request until somebody answers here, or by `sallyport approval allow`.", {} },
}

local function name_of(item, key) return key ~= "clients" and item.name or item.id or item.name end      -- a client's name is its own word; one that is damaged has no other

--- Whether there is a page of this list, and of each item.
function M.listed(key) return lists[key] ~= nil end

local fullest     -- desk -> { [rule's name] = its fullest counter in words }

local function list_of(desk, key)
  local l = lists[key]
  if not commands.find(l[1] .. " list") then return false end
  local got = ask(desk, l[1], "list")
  if type(got.value) ~= "table" then return wrong(got) end
  local titles, rows, numbers, counted = { "Name" }, {}, {}, key == "rules" and got.value[1] and fullest(desk) or nil
  for i, c in ipairs(l[2]) do titles[i + 1], numbers[i + 1] = c[1], c[3] end
  for i, item in ipairs(got.value) do
    local row = { link(desk, key .. "/" .. name_of(item, key), nil, name_of(item, key)) }
    for _, c in ipairs(l[2]) do
      local v = type(c[2]) == "function" and c[2](item, counted, desk) or type(c[2]) == "string" and item[c[2]] or ""
      row[#row + 1] = getmetatable(v) and getmetatable(v).__name == "html" and v or joined(v, SAID)
    end
    rows[i] = row
  end
  return html("{rows}{go}", { rows = rows[1] and grid(titles, rows, numbers) or html("<p>{n}</p>", { n = page.prose(l[3]) }),
    go = l[5] and buttons { link(desk, l[5][1], nil, l[5][2], "button go") } or false })
end

-- The part of the bar that a page is of.
local under = { messages = "settings", record = "log", allow = "log", explain = "log", users = "door", tenants = "door", gateways = "door",
  connections = "door", keys = "door", roles = "door", clients = "door", environment = "agents", proposals = "approvals" }

local function titled(key) return key:gsub("^%l", string.upper) end

-- How a credential is: what keeps it from working, when it was last used, and when its token ends and is made anew.
local function health(desk, c, last)
  local t, rows = c.token, {}
  local function row(name, value) rows[#rows + 1] = value and html("<dt>{n}</dt><dd>{v}</dd>", { n = name, v = value }) end
  local record = require("store").peek("credential", c.name)
  local why = record and c.state == "enabled" and require("troubles").of(record, require("time").wall())
  row("Now", why and html('<strong class="bad">{w}</strong>', { w = trouble(desk, c.name, why) }) or c.state == "enabled" and html '<span class="good">Nothing is known to be wrong.</span>'
    or "It is disabled: no request carries it.")
  row("Last used", last and html("{t}, {s}", { t = forms.moment(last.time), s = last.status or last.error or "no answer" }) or "not in the log")
  row("Last error", t and t.last_error and html("{e} {t}", { e = require("token").sentence(t.last_error, t.error_detail), t = forms.moment(t.last_error_at or "") })
    or c.refused and html("{h} answered 401 {t}", { h = c.refused.host, t = forms.moment(c.refused.at) }))
  row("Token", t and (t.valid and t.expires_at and html("ends {t}", { t = forms.moment(t.expires_at) }) or not t.valid and "none that is valid now" or nil))
  row("Next refresh", t and t.refresh_at and html("by the first request after {t}", { t = forms.moment(t.refresh_at) }))
  row("Connected", t and t.connected_at and forms.moment(t.connected_at))
  for i, cert in ipairs(c.client_cert or {}) do row(i == 1 and "Certificate ends" or "", forms.moment(cert.not_after)) end
  return html("<h2>Health</h2><dl>{r}</dl>", { r = rows })
end

-- For whom it works: what each agent that holds it may send to an address.
local function for_whom(desk, c, url)
  local rows, held, more, is_url = {}, {}, 0, url:find("^%a[%w+.-]*://") ~= nil
  for _, b in ipairs(c.bundles) do held[b] = true end
  for _, a in ipairs(ask(desk, "agent", "list").value or {}) do
    local bundle
    for _, b in ipairs(a.bundles or {}) do bundle = bundle or held[b] and b end
    if bundle and #rows >= AGENTS then
      more = more + 1
    elseif bundle then
      local d = is_url and ask(desk, "explain", "--agent=" .. a.name, "GET", url).value
      local says = a.state ~= "active" and a.state or not d and "" or d.credential == c.name and d.decision == "allow" and d.message and html('<span class="bad">{m}</span>', { m = d.message })
        or d.credential == c.name and d.decision == "allow" and html '<span class="good">goes out with it</span>'
        or d.decision == "allow" and html("goes out with {w}", { w = d.credential or "no credential" }) or html('<span class="bad">{m}</span>', { m = d.message or d.code or "that is no address" })
      rows[#rows + 1] = { link(desk, "agents/" .. a.name, nil, a.name), bundle, says,
        is_url and link(desk, "explain", { { "agent", a.name }, { "method", "GET" }, { "url", url } }, "Why") }
    end
  end
  return html([[<h2>For whom it works</h2><form class="row" method="get" action="{base}credentials/{n}"><label>GET<br>
<input name="url" value="{u}" size="40" maxlength="9000" spellcheck="false"></label><button>Explain</button></form>{rows}{more}]], { base = desk.base, n = c.name, u = url,
    rows = rows[1] and grid({ "Agent", "By the bundle", "What becomes of it", "" }, rows) or html "<p>No agent holds a bundle that it is in.</p>",
    more = more > 0 and html("<p>And {n} more.</p>", { n = more }) })
end

-- How full a counter is, beside its numbers.
local function gauge(c)
  if not c.count or not c.limit or c.limit <= 0 then return "" end
  local part = math.min((c.count + (c.reserved or 0)) / c.limit, 1)
  return html('<svg class="gauge" viewBox="0 0 100 8" aria-hidden="true"><rect class="base" width="100" height="8"/><rect class="{c}" width="{w}" height="8"/></svg>',
    { c = c.state == "open" and "ok" or "no", w = math.floor(part * 100 + 0.5) })
end

local function counted_words(c)
  local said = require("cli.rule_counters").said(c)
  return (c.state == "reached" or c.state == "unknown") and html('<strong class="bad">{s}</strong>', { s = said }) or c.state == "near" and html('<span class="bad">{s}</span>', { s = said }) or said
end

-- What a rule counted, as it stands now.
local function counters(desk, name)
  local got, rows = ask(desk, "rule", "counters", name), {}
  local of = got.value
  if got.error or type(of) ~= "table" then return wrong(got) end
  for i, c in ipairs(of.counters or {}) do
    rows[i] = { c.of == "" and "no credential" or c.of or "everybody", html("{g}{s}", { g = gauge(c), s = counted_words(c) }), require("cli.rule_counters").window(c),
      c.count and ago(c.ends_at) or "" }
  end
  if not rows[1] then
    return html("<h2>Counters</h2><p>{t}</p>", { t = of.note and "They cannot be read: " .. of.note
      or "It counts nothing, or its type does not say what." })
  end
  return html("<h2>Counters</h2>{live}", { live = living(5, html("{silent}{rows}{more}", {
    silent = of.silent and html('<p class="warn">How they stand now is not known: {s}. Shown are those that survive a restart.</p>', { s = of.silent }),
    rows = grid({ "Of", "Counted", "In", "Begins anew" }, rows),
    more = (of.more or of.note) and html("<p>{m}{n}</p>", { m = of.more and ("And %d more. "):format(of.more), n = of.note and of.note:gsub("^%l", string.upper) .. "." }) })) })
end

-- The fullest counter of each rule, by its name.
function fullest(desk)
  local out = {}
  for _, of in ipairs(ask(desk, "rule", "counters").value or {}) do
    local c = of.counters and of.counters[1]
    out[of.rule] = c and html("{g}{w}{s}", { g = gauge(c), w = c.of and c.of ~= "" and c.of .. ": ", s = counted_words(c) })
  end
  return out
end

local function is_builtin(role)
  for _, name in ipairs(require("web.access").builtin_roles) do
    if name == role then return true end
  end
  return false
end

local function item_page(desk, key, name, query)
  local l = lists[key]
  local shown
  if commands.find(l[1] .. " show") then
    shown = ask(desk, l[1], "show", name)
  else
    for _, item in ipairs(ask(desk, l[1], "list").value or {}) do
      if name_of(item, key) == name then shown = { value = item } end
    end
  end
  shown = shown or { error = { message = ("There is no %s '%s'."):format(forms.thing(l[1]), page.clean(name, 60) or "") } }
  if type(shown.value) ~= "table" or shown.error then return { status = 404, title = "Not there", body = html("{w}{b}", { w = wrong(shown), b = buttons { link(desk, under[key] or key, nil, "Go on", "button") } }), line = { l[1], "list" } } end
  local acts, more, about = {}, false, nil
  for i, verb in ipairs(l[4]) do
    local state, fixed = shown.value.state, verb == "remove" and key == "bundles" and name == "default" or key == "roles" and is_builtin(name)
    local idle = fixed or verb == "enable" and state ~= "disabled" or verb == "disable" and (state == "disabled" or state == "revoked")
    if commands.find(l[1] .. " " .. verb) and not idle then acts[#acts + 1] = link(desk, ("do/%s/%s"):format(l[1], verb), { { "a1", name } },
      (verb == "set" or verb == "add") and "Change" or verb == "scope" and "Add a scope" or titled(verb), i == 1 and key ~= "agents" and "button go" or "button") end
  end
  if key == "bundles" then
    local rows = {}
    for i, d in ipairs(shown.value.domains or {}) do
      local acts = {}
      for j, verb in ipairs { "set", d.state == "disabled" and "enable" or "disable", "remove" } do
        acts[j] = html('{l} ', { l = link(desk, "do/domain/" .. verb, { { "a1", name }, { "a2", d.host } }, html('{v}<span class="skip"> {h}</span>', { v = forms.verbs[verb], h = d.host })) })
      end
      rows[i] = { d.host, d.state, d.tunnel == "raw" and "anything, unread" or d.tunnel and "TLS, unread" or joined(d.methods), joined(d.ports), joined(d.paths) or "", acts }
    end
    shown.value.domains = nil
    more = html("<h2>Hosts without a credential</h2>{rows}{go}",
      { rows = rows[1] and grid({ "Host", "State", "Methods", "Ports", "Paths", "" }, rows) or html "<p>None.</p>",
      go = buttons { link(desk, "do/domain/add", { { "a1", name } }, "Open a host", "button") } })
  elseif key == "credentials" or key == "agents" then
    if key == "agents" then
      table.insert(acts, 1, link(desk, "environment", { { "agent", name } }, "Environment", "button go"))
      local tokens = {}
      for i, token in ipairs(shown.value.tokens or {}) do
        tokens[i] = { token.label or "", ago(token.created), token.expires_at and ago(token.expires_at) or "with the agent" }
      end
      shown.value.tokens = nil
      about = html("<h2>Tokens</h2>{t}", { t = tokens[1] and grid({ "Label", "Made", "Ends" }, tokens) or html "<p>None: rotate makes one.</p>" })
    end
    if key == "credentials" and commands.signs_in(shown.value.type) then
      table.insert(acts, 1, link(desk, "account/" .. name, nil, "Sign in to the account", "button go"))
      if shown.value.token then acts[#acts + 1] = link(desk, "do/disconnect", { { "a1", name } }, "Disconnect", "button") end
    end
    local lately, got = records_of(desk, { "log", "--kind=request", ("--%s=%s"):format(l[1], name), "--newest=" .. LATELY })
    if key == "credentials" then
      local c, test = shown.value, require "cli.credential_test"
      local url = query.url or (c.hosts[1] and not test.open_host(c.hosts[1]) and test.root_url(c)) or ""
      about = html("{h}{w}", { h = health(desk, c, require("json").decode(got.value[#got.value] or "")), w = for_whom(desk, c, url) })
      c.token, c.refused, c.client_cert = nil, nil, nil
    end
    more = html("{a}<h2>Lately</h2>{r}{l}", { a = about, r = lately or html "<p>No request of it is in the log.</p>", l = buttons { link(desk, "log", { { l[1], name } },
      "Its requests", "button"), key == "agents" and link(desk, "explain", { { "agent", name } }, "Explain a request", "button") or nil } })
  end
  if key == "rules" then more = counters(desk, name) end
  if key == "gateways" and shown.value.scopes then
    local rows = {}
    for i, s in ipairs(shown.value.scopes) do
      local function act(word, ...) return html('{l} ', { l = link(desk, "do/gateway/scope", { { "a1", name }, { "a2", s.name }, ... }, html('{w}<span class="skip"> {n}</span>', { w = word, n = s.name })) }) end
      rows[i] = { s.name, s.says, joined(s.tools), { act "Change", act("Remove", { "o.remove", "on" }) } }
    end
    shown.value.scopes = nil
    more = rows[1] and html("<h2>Scopes of its own</h2>{g}", { g = grid({ "Scope", "What it allows", "Tools", "" }, rows) })
  end
  shown.value.name = nil        -- the title says it
  return { title = ("%s %s"):format(titled(forms.thing(l[1])), name), live = key == "rules", line = { l[1], commands.find(l[1] .. " show") and "show" or "list", commands.find(l[1] .. " show") and name or nil },
    body = html("{members}{acts}{more}", { members = forms.members(shown.value), acts = buttons(acts), more = more }) }
end

-- ---- variables -----------------------------------------------------------------------------------

-- Whose variables there are: { kind, name, set = { NAME = value }, off = those that are disabled } each, bundles first.
local function holders(desk)
  local out = {}
  for _, kind in ipairs { "bundle", "agent", "tenant" } do
    for _, x in ipairs(ask(desk, kind, "list").value or {}) do
      if x.state ~= "revoked" and x.state ~= "damaged" then out[#out + 1] = { kind, x.name, set = x.variables or {}, off = x.variables_off or {}, bundles = x.bundles } end
    end
  end
  return out
end

local function variables(desk, query, form)
  local all, note, names = holders(desk), nil, require "variables"
  if form then
    local kind, name = (form.of or ""):match("^(%l+) (.+)$")
    local is
    for _, h in ipairs(all) do is = is or h[1] == kind and h[2] == name and h end
    local variable, value = form.variable or "", form.value or ""
    local good, why = names.name(variable)
    if not is then
      why = "Choose whose it is."
    elseif good and not form.remove and not form.switch and value == "" then
      why = "It needs a value; Remove takes it away."
    elseif good and form.was ~= (is.set[variable] or is.off[variable] or "") then
      why = ("Somebody changed it since you opened the page: it is %q now."):format(is.set[variable] or is.off[variable] or "")
    elseif good then
      local args = { kind, "set", name, form.switch and ("--%s-variable=%s"):format(form.switch == "enable" and "enable" or "disable", variable)
        or ("%s=%s"):format(variable, form.remove and "" or value) }
      local got = ask(desk, table.unpack(args))
      if not got.error then return { see = forms.keep(desk, commands.find(args[1] .. " set"), args, got, "variables") } end
      why = got.error.message
    end
    note = html('<p class="warn" role="alert">{w}</p>', { w = why })
  end
  -- what credentials want, by bundle
  local wants, rows, list = {}, {}, {}
  for _, c in ipairs(ask(desk, "credential", "list").value or {}) do
    local set = {}
    for _, part in ipairs { c.hosts or {}, c.seal_hosts or {}, c.fields or {}, c.headers or {} } do names.note(part, set) end
    for _, b in ipairs(c.bundles or {}) do
      for v in pairs(set) do
        wants[b] = wants[b] or {}
        wants[b][v] = wants[b][v] or {}
        table.insert(wants[b][v], c.name)
      end
    end
  end
  local function row(h, variable)
    local by, seen = {}, {}
    for _, b in ipairs(h[1] == "bundle" and { h[2] } or h.bundles or {}) do
      for _, c in ipairs((wants[b] or {})[variable] or {}) do
        if not seen[c] then by[#by + 1], seen[c] = link(desk, "credentials/" .. c, nil, c), true end
      end
    end
    local of, off, value = h[1] .. " " .. h[2], h.off[variable], h.set[variable] or h.off[variable]
    for i = #by, 2, -1 do table.insert(by, i, ", ") end
    rows[#rows + 1] = { off and variable .. " (disabled)" or variable, of, html([[
<form class="row" method="post" action="{base}variables">{csrf}<input type="hidden" name="of" value="{of}"><input type="hidden" name="variable" value="{v}"><input type="hidden" name="was" value="{was}">
<input name="value" value="{was}" size="16" aria-label="{v} of {of}"><button>{set}</button>{remove}</form>]], { base = desk.base, csrf = desk.csrf "variables", of = of, v = variable, was = value or "",
      set = value and "Change" or "Set", remove = value and html('<button name="switch" value="{s}">{t}</button><button name="remove" value="on">Remove</button>', { s = off and "enable" or "disable", t = off and "Enable" or "Disable" }) }), by[1] and by or html '<span class="dim">nothing</span>' }
  end
  for i, h in ipairs(all) do
    list[i] = html('<option value="{o}"{on}>{o}</option>', { o = h[1] .. " " .. h[2], on = form and form.of == h[1] .. " " .. h[2] and html " selected" })
    local mine, sorted = {}, {}
    for v in pairs(h.set) do mine[v] = true end
    for v in pairs(h.off) do mine[v] = true end
    for v in pairs(h[1] == "bundle" and wants[h[2]] or {}) do mine[v] = true end
    for v in pairs(mine) do sorted[#sorted + 1] = v end
    table.sort(sorted)
    for _, v in ipairs(sorted) do row(h, v) end
  end
  return { status = note and 400 or 200, title = "Variables", line = { "bundle", "set", "BUNDLE", "NAME=VALUE" }, body = html([[
{note}<p>A credential may hold <code>$&#123;NAME&#125;</code> in a plain field, a header or, as one label, a host. Its value is the agent's own, else that of the bundle through which the agent has it.</p>
{rows}<h2>A new one</h2><form class="row" method="post" action="{base}variables">{csrf}<input type="hidden" name="was" value=""><label>Of<br><select name="of">{list}</select></label>
<label>Name<br><input name="variable" value="{v}" size="16" placeholder="TENANT" required></label><label>Value<br><input name="value" value="{value}" size="16" required></label><button class="go">Add it</button></form>]],
    { note = note, rows = rows[1] and grid({ "Variable", "Of", "Value", "Wanted by" }, rows) or html "<p>There is none yet.</p>", base = desk.base, csrf = desk.csrf "variables", list = list,
      v = form and form.variable, value = form and form.value }) }
end

local function door(desk)
  local parts = {}
  for _, key in ipairs { "gateways", "tenants", "users", "connections", "keys", "roles", "clients" } do
    parts[#parts + 1] = html('<h2>{t}</h2>{l}<p class="dim">On the command line: <code>{c}</code></p>', { t = titled(key), l = list_of(desk, key),
      c = commands.line { lists[key][1], "list" } })
  end
  local at = (ask(desk, "set").value or {})["public-url"]
  return { title = "Door", body = html("<p>MCP hosts come in here: each gateway is an address that people paste as a custom connector.</p>{shut}{parts}", { parts = parts,
    shut = not (at and at.set) and html('<p class="note">Nobody can come in yet: {t}</p>', { t = page.prose "`sallyport set public-url https://box.example.org`, and `sallyport serve --gateway 0.0.0.0:8443`." }) }) }
end

-- ---- settings ------------------------------------------------------------------------------------

local function settings(desk, query, form)
  local note, failed, done
  if form then
    local name, value = form.name or "", form.value or ""
    if not commands.SETTINGS[name] then return { status = 400, title = "Settings",
      body = html "<p>That one is set on the command line.</p>" } end
    local args = { "set", name }
    if value == "" then
      args[3] = "--default"
    else
      for word in value:gmatch("%S+") do args[#args + 1] = word:sub(1, 1) ~= "-" and word or nil end
    end
    local got = ask(desk, table.unpack(args))
    failed, done = got.error, not got.error and args or nil
    note = failed and html('<div class="warn" role="alert">{m}</div>', { m = page.prose(got.error.message) })
      or html '<div class="note" role="status">Done.</div>'
  end
  local all, rows = ask(desk, "set").value or {}, {}
  for i, s in ipairs(require("records").setting_list) do
    local kept = all[s.name] or {}
    local value = kept.value ~= nil and require("cli.settings").show(s, kept.value) or ""
    local box = html('<form class="row" method="post" action="{base}settings">{csrf}'
      .. '<input type="hidden" name="name" value="{n}"><input name="value" value="{v}" aria-label="{n}"><button>Set</button></form>',
      { base = desk.base, csrf = desk.csrf "settings", n = s.name, v = kept.set and value or "" })
    rows[i] = { html("<strong>{n}</strong><br><small>{h}</small>", { n = s.name, h = page.prose(forms.sentence(s.help)) }),
      html("{v}{d}", { v = value, d = not kept.set and html(" <small>{t}</small>", { t = value == "" and "not set" or "default" }) or false }),
      commands.SETTINGS[s.name] and box or html("<small><code>sallyport set {n}</code></small>", { n = s.name }) }
  end
  return { status = failed and 400 or 200, title = "Settings", line = done or { "set" }, body = html("{note}<p>An empty field brings the default back. {messages}.</p>{rows}",
    { note = note or false, messages = link(desk, "messages", nil, "Who is told what needs a person"), rows = grid({ "Setting", "Value", "Change" }, rows) }) }
end

-- ---- messages ------------------------------------------------------------------------------------

local formats = { { "json", "JSON" }, { "slack", "Slack's" }, { "ntfy", "plain text, as ntfy takes it" } }
local events = { proposal = "An agent proposes something", approval = "A request waits for a person", refusals = "An agent is refused again and again",
  credential = "A credential fails, or ends soon" }

-- Who is told what needs a person: a form that keeps all of it in one change.
local function messages(desk, query, form)
  local kept, note = ask(desk, "webhook", "show").value, nil
  kept = type(kept) == "table" and kept.url and kept or nil
  local state = kept and require("host").sha256_hex(require("json").encode { kept, require("store").peek("meta", "set/webhook").version }):sub(1, 16) or "none"
  local f = form or {}
  if form then
    local args, typed, chosen = { "webhook", "set" }, {}, 0
    local url, address = (form.url or ""):match("^%s*(.-)%s*$"), (form.address or ""):match("^%s*(.-)%s*$")
    -- what stands behind the host is a secret: it is in no line that is shown, nor in the form again
    local origin, rest = require("records").webhook(url)
    local target = origin and rest ~= "/" and rest or form.target or ""
    if url ~= "" and url ~= (kept and kept.url) and (not origin or origin ~= (kept and kept.url)) then args[3] = origin or url end
    for _, s in ipairs { { "target", target }, { "secret", form.secret or "" } } do
      if s[2] ~= "" then typed[s[1]], args[#args + 1] = s[2], s[1] .. "=-" end
    end
    if address ~= (kept and kept.address or "") then args[#args + 1] = "--address=" .. address end
    if (form.format or "") ~= "" and form.format ~= (kept and kept.format or "json") then args[#args + 1] = "--format=" .. form.format end
    local told = {}
    for _, event in ipairs(require("records").webhook_events) do
      if form["e." .. event] then chosen, told[#told + 1] = chosen + 1, "--event=" .. event end
    end
    if joined(told) ~= "--event=" .. table.concat(kept and kept.events or require("records").webhook_events, ", --event=") then table.move(told, 1, #told, #args + 1, args) end
    local why = form.seen ~= state and "Somebody changed this since you opened the page. Sent again, this form overwrites that." or url:find("^%-") and "That is no address."
      or url == "" and "It needs an address: https://…" or chosen == 0 and "Choose what it is told of; to tell it nothing, remove it." or url:find("%c") and "It is one line." or kept and not args[3] and "Nothing in this form was changed." or nil
    if not why then
      local did = commands.run(args, { home = desk.home, asked = desk.who, typed = typed })
      if not did.error then return { see = forms.keep(desk, commands.find "webhook set", args, did) } end
      why = did.error.message
    end
    note = html('<div class="warn" role="alert"><strong>{w}</strong></div>', { w = why })
    f.url = origin
  end
  local all, boxes, options = {}, {}, {}
  for _, event in ipairs(kept and kept.events or require("records").webhook_events) do all[event] = true end
  for i, event in ipairs(require("records").webhook_events) do
    local on = form and form["e." .. event] or not form and all[event]
    boxes[i] = html('<label class="on"><input type="checkbox" name="e.{e}" value="on"{on}> {t}</label>', { e = event, t = events[event], on = on and html " checked" })
  end
  for i, o in ipairs(formats) do
    options[i] = html('<option value="{v}"{on}>{t}</option>', { v = o[1], t = o[2], on = o[1] == (f.format or kept and kept.format or "json") and html " selected" })
  end
  local function secret(name, label, help)
    return html('<label for="w-{n}">{l}</label><input id="w-{n}" name="{n}" type="password" autocomplete="off" spellcheck="false" placeholder="{p}" aria-describedby="w-{n}-help"><small id="w-{n}-help">{h}</small>',
      { n = name, l = label, h = help, p = kept and "•••••••• (kept; type to replace it)" })
  end
  return { status = note and 400 or 200, title = "Messages", line = { "webhook", "set", "https://HOST/…", "target=-", "secret=-", "--format", kept and kept.format or "json", "--event", "EVENT" }, body = html([[
{note}<p>{now}</p><form method="post" action="{base}messages">{csrf}<input type="hidden" name="seen" value="{seen}">
<label for="w-url">Address</label><input id="w-url" name="url" value="{url}" type="url" required spellcheck="false" placeholder="https://hooks.example.com" aria-describedby="w-url-help"><small id="w-url-help">What stands behind the host is kept as a secret, and not shown again.</small>
{target}{secret}<label for="w-format">Format</label><select id="w-format" name="format">{options}</select><fieldset><legend>It is told when</legend>{boxes}</fieldset>
<details{open}><summary>More</summary><label for="w-address">In your own network, at</label><input id="w-address" name="address" value="{address}" spellcheck="false" placeholder="10.0.0.0/8" aria-describedby="w-address-help"><small id="w-address-help">A network that the host may resolve to; without it the guard lets public addresses through alone.</small></details>
<p class="row"><button class="go">Keep it</button></p></form>{acts}]], { note = note, base = desk.base, csrf = desk.csrf "messages", seen = state, options = options, boxes = boxes,
    now = kept and html("<strong>{u}</strong> is told what needs a person. Where its address changes, the secret that messages are signed with is asked for again.", { u = kept.url })
      or "Nobody is told yet. An HTTPS address of yours can be, of Slack's, of ntfy's; a link in a message needs a sign-in before it answers anything.",
    url = f.url or kept and kept.url, address = f.address or kept and kept.address, open = (f.address or "") ~= "" and html " open",
    target = secret("target", "What stands behind the host", "With its slash: /services/T0/B0/… Or type it as a part of the address."),
    secret = secret("secret", "Secret for the signature", kept and "" or "Left empty, one is made and shown once."),
    acts = kept and html("<h2>Is it taken?</h2>{b}", { b = buttons { link(desk, "do/webhook/test", nil, "Send a test message", "button"), link(desk, "do/webhook/remove", nil, "Remove it", "button") } }) }) }
end

-- ---- log -----------------------------------------------------------------------------------------

local FILTERS = { "agent", "credential", "host", "decision", "status", "text", "since", "client" }

-- The command of these filters, and those that are set.
local function filters(query)
  local args, kept = { "log" }, {}
  for _, name in ipairs(FILTERS) do
    local value = query[name] or name == "decision" and query.denied and "deny"
    if value and value ~= "" then args[#args + 1], kept[#kept + 1] = ("--%s=%s"):format(name, value), { name, value } end
  end
  return args, kept
end

-- The presets that go to a host.
local function presets_for(host, all)
  local out = {}
  for _, p in ipairs(all) do
    for _, h in ipairs(p.hosts) do
      if h == host or h:sub(1, 2) == "*." and host:sub(1 - #h) == h:sub(2) then out[#out + 1] = p break end
    end
  end
  return out
end

-- Where a record's request went.
local function url_of(r)
  local scheme = r.scheme or r.port == 80 and "http" or "https"
  return ("%s://%s%s%s"):format(scheme, r.host, r.port and r.port ~= (scheme == "http" and 80 or 443) and ":" .. r.port or "", r.path or "/")
end

-- What the page that opens a host has to know of a request.
local function asked_for(r, agent)
  return { { "host", r.host }, { "agent", agent }, { "method", tostring(r.method or "") }, { "port", tostring(r.port or "") } }
end

-- Hosts that were refused in the last week, by count; those that a preset knows come first.
local function suggestions(desk)
  local sum, known, others = ask(desk, "log", "--summary", "--since", "7d").value, {}, {}
  local all = ask(desk, "credential", "presets").value or {}
  for _, r in ipairs(type(sum) == "table" and sum.refused_by_host or {}) do
    if r.code == "host_not_allowed" then
      local p = presets_for(r.host, all)[1]
      local to = p and known or others
      to[#to + 1] = { r, p }
    end
  end
  table.move(others, 1, #others, #known + 1, known)
  local out = {}
  for i = 1, math.min(#known, ASKED) do
    local x = known[i]
    local r, agent = x[1], (x[1].agents or {})[1] or ""
    local now = agent ~= "" and ask(desk, "explain", "--agent=" .. agent, "GET", url_of(r)).value
    if not now or now.code == "host_not_allowed" then     -- what was opened since is none
      out[#out + 1] = { r.host, r.count, joined(r.agents), x[2] and x[2].title or "", link(desk, "allow", asked_for(r, agent), "Allow it") }
    end
    if #out == SUGGESTED then break end
  end
  return out
end

local function log(desk, query)
  local args, kept = filters(query)
  args[#args + 1] = "--newest=" .. LOG_ROWS
  local rows, got = records_of(desk, args)
  local inputs = {}
  for i, f in ipairs { { "agent", "Agent" }, { "credential", "Credential" }, { "host", "Host" }, { "status", "Status", "403, 5xx" }, { "text", "Text" }, { "since", "Since", "15m, 24h" } } do
    inputs[i] = html('<label>{t}<br><input name="{n}" value="{v}" size="9" maxlength="500" placeholder="{p}"></label>', { t = f[2], n = f[1], v = query[f[1]] or "", p = f[3] or "" })
  end
  local decision, choices = query.denied and "deny" or query.decision, {}
  for i, c in ipairs { { "", "any" }, { "allow", "allowed" }, { "deny", "refused" } } do
    choices[i] = html('<option value="{v}"{on}>{t}</option>', { v = c[1], t = c[2], on = c[1] == decision and html " selected" })
  end
  local found = not desk.looking and suggestions(desk) or {}
  return { title = "Log", live = true, again = query.live and 5 or nil, line = args, body = html([[
<form class="row" method="get" action="{base}log">{inputs}<label>Decision<br><select name="decision">{choices}</select></label><button>Show</button></form>
{refused}{err}{rows}<noscript><p>{live}</p></noscript>{suggest}]], { base = desk.base, inputs = inputs, choices = choices, err = got.error and wrong(got),
    rows = living(3, rows or html(kept[1] and "<p>No such request.</p>" or "<p>No request yet: <code>sallyport env</code> prints what an agent needs.</p>")),
    live = query.live and link(desk, "log", kept, again[2])
      or link(desk, "log", table.move({ { "live", "on" } }, 1, 1, #kept + 1, kept), again[1]),
    refused = found[1] and html('<p><a href="#refused">{n} that {w} refused in the last week</a></p>', { n = several(#found, "host"), w = #found == 1 and "was" or "were" }),
    suggest = found[1] and html('<h2 id="refused">Suggestions: refused in the last week</h2>{g}',
      { g = grid({ "Host", "Times", "Agents", "Known as", "" }, found, { false, true }) }) }) }
end

local function code(args) return html("<code>{l}</code>", { l = commands.line(args) }) end

local READS = { "GET", "HEAD", "OPTIONS" }

-- A list with one more in it, where it lacks that.
local function with(list, one)
  local out, is = table.move(list or {}, 1, #(list or {}), 1, {}), one == nil
  for _, x in ipairs(out) do is = is or x == one end
  out[#out + 1] = not is and one or nil
  return out
end

local function flags(methods, ports, address)
  local out = { address and "--address=" .. address }
  for _, m in ipairs(methods) do out[#out + 1] = "--method=" .. m end
  for _, p in ipairs(ports) do out[#out + 1] = "--port=" .. p end
  return out
end

-- What would let a host through: presets that go there, or an entry in one of the agent's bundles, by one click.
local function allow(desk, query)
  local asked = (query.host or "") ~= "" and query.host
  local ways, host, why = {}, require("records").host(asked or "")
  local method, port = (query.method or ""):match("^%u+$"), math.tointeger(tonumber(query.port))
  if not host then
    return { status = asked and 400 or 200, title = "Allow a host", body = html([[
{why}<form class="row" method="get" action="{base}allow"><label>Host<br><input name="host" value="{h}" spellcheck="false" required></label>
<label>Agent<br><input name="agent" value="{a}" spellcheck="false"></label><button>Look</button></form>]], { base = desk.base, h = asked or "", a = query.agent or "",
      why = asked and html('<p class="warn" role="alert">{w}</p>', { w = why }) }) }
  end
  -- The guard lets public addresses through alone, but for a range that an entry names.
  local literal = require("addr").parse((host:gsub("^%[(.*)%]$", "%1")))
  local guarded = literal and require("addr").guard(literal)
  local inner = not literal and require("records").private_name(host)
  local address = guarded and literal or inner and "CIDR" or nil
  for _, p in ipairs(presets_for(host, ask(desk, "credential", "presets").value or {})) do
    ways[#ways + 1] = { html("Connect <strong>{t}</strong>: its key is attached here", { t = p.title }), code { "credential", "add", p.name, "--preset", p.name },
      link(desk, "do/credential/add", { { "o.preset", p.name }, { "a1", p.name } }, "Connect", "button go") }
  end
  local now = method and (query.agent or "") ~= "" and ask(desk, "explain", "--agent=" .. query.agent, method, url_of { host = host, port = port }).value
  for _, c in ipairs(type(now) == "table" and now.considered or {}) do
    local kept = c.kind == "credential" and #ways < SUGGESTED and ask(desk, "credential", "show", c.name).value
    local methods = type(kept) == "table" and kept.methods and with(kept.methods, method)
    if methods and #methods > #kept.methods then
      ways[#ways + 1] = { html("The credential <strong>{c}</strong> goes there, by {m} alone", { c = c.name, m = joined(kept.methods) }), code { "credential", "set", c.name, table.unpack(flags(methods, {})) },
        link(desk, "do/credential/set", { { "a1", c.name }, { "o.method", table.concat(methods, "\n") } }, "Change it") }
    end
  end
  local held = query.agent and query.agent ~= "" and ask(desk, "agent", "list").value or {}
  local bundles = {}
  for _, a in ipairs(held) do
    if a.name == query.agent then bundles = a.bundles or {} end
  end
  for _, b in ipairs(bundles[1] and bundles or { "default" }) do
    local is = ask(desk, "bundle", "show", b).value
    local entry
    for _, d in ipairs(type(is) == "table" and is.domains or {}) do entry = entry or d.host == host and d end
    local off = type(is) == "table" and is.state == "disabled"
    if entry and entry.state == "disabled" and not off then
      ways[#ways + 1] = { html("The bundle <strong>{b}</strong> has an entry for it, which is disabled", { b = b }), code { "domain", "enable", b, host },
        link(desk, "do/domain/enable", { { "a1", b }, { "a2", host } }, "Enable it") }
    end
    if entry and not off then
      local had = entry.methods or {}
      local methods, ports = with(had, not entry.tunnel and method or nil), with(entry.ports, port)
      local more = flags(#methods > #had and methods or {}, #ports > #entry.ports and ports or {})
      ways[#ways + 1] = { html("The bundle <strong>{b}</strong> has an entry for it: {s}", { b = b, s = forms.said { entry.tunnel and "relayed unread" or joined(had), "at " .. joined(entry.ports) } }),
        code(more[1] and { "domain", "set", b, host, table.unpack(more) } or { "bundle", "show", b }), link(desk, "do/domain/set", { { "a1", b }, { "a2", host }, { "o.method", table.concat(methods, "\n") },
          { "o.port", table.concat(ports, "\n") } }, "Change it") }
    elseif off then
      ways[#ways + 1] = { html("The bundle <strong>{b}</strong> is disabled: nothing in it counts before it is enabled", { b = b }), code { "bundle", "enable", b },
        link(desk, "do/bundle/enable", { { "a1", b } }, "Enable it") }
    else
      local ports = port and port ~= 443 and { port } or {}
      for _, methods in ipairs(method and #with(READS, method) > #READS and { {}, with(READS, method) } or { {} }) do
        local fields = { { "a1", b }, { "a2", host }, { "o.method", table.concat(methods, "\n") }, { "o.port", tostring(ports[1] or "") }, { "o.address", guarded and literal or "" } }
        local inputs = {}
        for i, f in ipairs(fields) do inputs[i] = html('<input type="hidden" name="{n}" value="{v}">', { n = f[1], v = f[2] }) end
        ways[#ways + 1] = { html("Open it without a credential, to read{m}{p}, to all agents with the bundle <strong>{b}</strong>", { b = b, m = methods[1] and " and to " .. method, p = ports[1] and " at port " .. port }),
          code { "domain", "add", b, host, table.unpack(flags(methods, ports, address)) }, inner and link(desk, "do/domain/add", fields, "Open it")
            or html('<form method="post" action="{base}do/domain/add">{csrf}{inputs}<button>Open it</button></form>', { base = desk.base, csrf = desk.csrf "do/domain/add", inputs = inputs }) }
      end
    end
  end
  return { title = "Allow " .. (page.clean(host, 100) or ""), body = html("{careful}{ways}", { ways = grid({ "How", "On the command line", "" }, ways),
    careful = guarded and html('<p class="warn">Careful: {h} is {w}. No agent may be sent there but by an entry that names it as an address, too.</p>', { h = literal, w = guarded })
      or inner and html('<p class="warn">{h} is a name of this machine or of a private network: an entry for it needs the range that it may resolve to, such as 10.0.0.0/8.</p>', { h = host }) }) }
end

-- What `explain` answered.
local decided = { allow = "It would go out.", deny = "It would be refused.", ask = "A person would be asked." }
local function decision(desk, got)
  local d, why, rules = got.value, {}, {}
  if got.error or type(d) ~= "table" then return wrong(got) end
  for i, c in ipairs(d.considered or {}) do why[i] = { { c.kind .. " ", c.kind == "domain" and c.bundle and link(desk, "do/domain/set", { { "a1", c.bundle }, { "a2", c.name } }, c.name)
      or c.kind == "credential" and link(desk, "credentials/" .. c.name, nil, c.name) or c.name }, c.bundle or "",
    c.why or html '<strong class="good">it decides</strong>' } end
  for i, r in ipairs(d.rules or {}) do rules[i] = { link(desk, "rules/" .. r.name, nil, r.name), r.type, r.says } end
  local said, message = decided[d.decision], d.message and forms.sentence(d.message)
  local class = d.decision == "deny" and "bad" or (d.decision == "ask" or message) and "warn" or "good"
  if d.reason == d.code then d.reason = nil end
  if d.try then d.hint = nil end        -- it is the agent's
  d.considered, d.rules, d.decision, d.message, d.method, d.url, d.agent = nil, nil, nil, nil, nil, nil, nil
  d.address = d.address and d.address:gsub(" %(%-%-resolve looks%)", "")
  return html('<p class="{c}"><strong>{d}</strong> {m}</p>{members}{rules}{why}', { c = class, d = said, m = message, members = forms.members(d),
      rules = rules[1] and html("<h2>What rules say</h2>{g}", { g = grid({ "Rule", "Type", "Says" }, rules) }),
      why = why[1] and html("<h2>What was looked at</h2>{g}", { g = grid({ "What", "Bundle", "What of it" }, why) }) })
end

-- more: { headers = lines, body = text } of a form | nil
local function explained(desk, agent, method, url, more)
  local args, body = { "explain" }, (more and more.body or ""):gsub("\r\n", "\n")
  if agent ~= "" then args[2] = "--agent=" .. agent end
  if method:find("^%-") or url:find("^%-") then return html "<p>That is no request.</p>" end
  if body == "-" or body:sub(1, 1) == "@" then return html "<p>A body that is - or begins with @ is asked about on the command line: there it names a file.</p>" end
  for line in (more and more.headers or ""):gmatch("[^\r\n]+") do args[#args + 1] = "--header=" .. line end
  if body ~= "" then args[#args + 1] = "--body=" .. body end
  args[#args + 1], args[#args + 2] = method, url
  local got = ask(desk, table.unpack(args))
  return decision(desk, got), not got.error and args or nil
end

local function record(desk, query)
  local id = (query.id or ""):match("^[%w_-]+$")
  for _, r in ipairs(id and lines(desk, "log", "--newest=" .. LOOK) or {}) do
    if r.request == id then
      local url = r.host and url_of(r)
      local now, args = nil, nil
      if url and r.method and not require("cli.log_summary").stayed(r) then now, args = explained(desk, r.agent or "", r.method, url) end
      local rows = {}
      for i, c in ipairs(r.changes or {}) do rows[i] = { c.record, c.did, joined(c.members) or "" } end
      r.changes = nil
      if r.error == r.reason then r.error = nil end
      return { title = r.kind == "change" and "A change" or "A request", line = args or { "log", "--json" }, body = html("{m}{c}{allow}{e}", { m = forms.members(r),
        c = rows[1] and grid({ "Record", "Was", "Members" }, rows),
        allow = (r.reason == "host_not_allowed" or r.reason == "method_not_allowed" and r.agent and url) and buttons { link(desk, "allow", asked_for(r, r.agent or ""), "Allow this", "button go") },
        e = now and html("<h2>What would happen to it now</h2>{e}", { e = now }) }) }
    end
  end
  return { status = 404, title = "No such record", line = { "log", "--json" },
    body = html "<p>It is older than what this page looks through: <code>sallyport log --json</code> has it.</p>" }
end

local function explain(desk, query, form)
  local done, args, asked = nil, nil, form or query
  if asked.method and asked.url then done, args = explained(desk, asked.agent or "", asked.method, asked.url, form) end
  return { title = "Explain a request", line = args or { "explain", "GET", "URL" }, body = html([[
<p>Says which bundle, credential or host entry decides, and why the others do not. Nothing is sent.</p>
<form method="post" action="{base}explain">{csrf}<div class="row"><label>Agent<br><input name="agent" value="{a}"></label>
<label>Method<br><input name="method" value="{m}" size="8"></label>
<label>URL<br><input name="url" value="{u}" size="40"></label><button class="go">Explain</button></div>
<details{open}><summary>With headers and a body, for rules that read them</summary>
<label for="e-headers">Headers</label><textarea id="e-headers" name="headers" rows="2" spellcheck="false" aria-describedby="e-headers-help">
{h}</textarea><small id="e-headers-help">One NAME: VALUE a line; a body is known by its Content-Type.</small>
<label for="e-body">Body</label><textarea id="e-body" name="body" rows="4" spellcheck="false">
{b}</textarea></details></form>{done}]],
    { base = desk.base, csrf = desk.csrf "explain", a = asked.agent or "", m = asked.method or "GET", u = asked.url or "", done = done,
      h = form and form.headers, b = form and form.body, open = form and ((form.headers or "") ~= "" or (form.body or "") ~= "") and html " open" }) }
end

-- ---- policies ------------------------------------------------------------------------------------

local function policies(desk, query)
  if query.name and require("policy").name_ok(query.name) and ask(desk, "policy", "show", query.name).error then
    return { see = "policies/" .. query.name .. "?" .. require("form").encode { { "like", query.like or "a rule" } } }
  end
  local rows, names = {}, {}
  for i, p in ipairs(ask(desk, "policy", "list").value or {}) do
    rows[i] = { link(desk, "policies/" .. p.name, nil, p.name), p.kind or "", p.title or p.why or "", p.status or "",
      p.version ~= 0 and p.version or "" }
    if p.kind == "rule" or p.kind == "type" then names[#names + 1] = html("<option>{n}</option>", { n = p.name }) end
  end
  return { title = "Policies", line = { "policy", "list" },
    body = html("<p>Policies are the Lua files that say how a credential is attached, what is matched, and what "
      .. "rules ask. An edit counts from the next request.</p>{g}{new}", {
    new = html([[<h2>A new one</h2><form class="row" method="get" action="{base}policies"><label>Name<br><input name="name" required pattern="[a-z][a-z0-9_]*" size="16" maxlength="64"></label>
<label>Begins as<br><select name="like"><option>a rule</option><option>a type</option>{o}</select></label><button>Write it</button></form>{w}]], { base = desk.base, o = names, w = query.name and html('<p class="warn" role="alert">{t}</p>',
      { t = "A name is small letters, digits and _, begins with a letter, and is no other policy's." }) }),
    g = grid({ "Name", "Kind", "What it is", "State", "Version" }, rows, { [5] = true }) }) }
end

-- The text area with its lines' numbers beside it, which need no script: the area is as high as its text. at: the line of a fault.
local function editor(source, at)
  local n, numbers = select(2, source:gsub("\n", "")) + 1, {}
  for i = 1, n + SPARE_LINES do numbers[i] = i == at and html('<b id="fault">{i}</b>\n', { i = i }) or i .. "\n" end
  return html([[
<div class="edit"><pre aria-hidden="true">{numbers}</pre><textarea class="code" id="source" name="source" rows="{n}" wrap="off" spellcheck="false"{wrong}>
{source}</textarea></div>]], { numbers = numbers, n = math.max(n + 1, 12), source = source, wrong = at and html ' aria-invalid="true" aria-describedby="fault-says"' })
end

-- What a refusal says, with the line of the draft that it names.
local function fault(text, source)
  local at, k, shown = math.tointeger(tonumber(text:match("%.lua:(%d+):"))), 0, nil
  for line in source:gmatch("[^\n]*") do
    k = k + 1
    if k == at then shown = line end
  end
  return html('<div class="warn" role="alert" id="fault-says">{m}{l}</div>', { m = text,
    l = shown and html('\n<a href="#fault">Line {n}</a>: <code>{s}</code>', { n = at, s = shown }) }), shown and at
end

-- A request against the draft: what a type makes of it, what a rule says to it, how it would be decided. Nothing is sent, and no secret is used.
local function try(desk, name, source, form)
  local args = { "policy", "try", name, (form.method or ""):upper(), form.url or "" }
  if not args[4]:find("^%u+$") or args[5]:find("^%-") then return nil, "that is no request: GET and https://…" end
  for line in (form.fields or ""):gmatch("[^\r\n]+") do
    if line:find("^%-") or not line:find("=", 1, true) then return nil, "a line is FIELD=VALUE" end
    args[#args + 1] = line
  end
  for line in (form.headers or ""):gmatch("[^\r\n]+") do args[#args + 1] = "--header=" .. line end
  local body = (form.body or ""):gsub("\r\n", "\n")
  if body:sub(1, 1) == "@" then return nil, "a body that begins with @ is tried on the command line: there it names a file" end
  if body ~= "" then args[#args + 1] = "--data=" .. body end
  if (form.agent or "") ~= "" then args[#args + 1] = "--agent=" .. form.agent end
  local did = commands.run(args, { home = desk.home, asked = desk.who, source = { name, source } })
  local v, parts, said = did.value, {}, nil
  if did.error or type(v) ~= "table" then return nil, did.error and did.error.message .. "\n" .. (did.error.hint or "") or "it cannot be tried" end
  args[3] = ("./%s.lua"):format(name)
  local judged = v.considered ~= nil
  if judged then
    said = decision(desk, did)
  elseif v.counted then
    local counted = {}
    for i, c in ipairs(v.counted) do counted[i] = { c.key, c.window, c.n } end
    local words = { allow = "It goes on.", deny = "It refuses:", ask = "It asks a person:" }
    said = html('<p class="{c}"><strong>{w}</strong> {m}</p>{h}{t}', { c = v.decision == "allow" and "good" or "bad", w = words[v.decision], m = v.message, h = v.hint and html("<p>{h}</p>", { h = v.hint }),
      t = counted[1] and html("<h3>What it counted, from nothing</h3>{g}", { g = grid({ "Counter", "Window", "Then" }, counted, { [3] = true }) }) })
    v.counted, v.decision, v.message, v.hint = nil, nil, nil, nil
  end
  for i, side in ipairs { { "before", "What came" }, { "after", "What would go out" } } do
    local r, rows = v[side[1]], {}
    for h, x in pairs(r and r.headers or {}) do rows[#rows + 1] = { h, forms.said(x) } end
    table.sort(rows, function(x, y) return x[1] < y[1] end)
    parts[i] = r and html("<h3>{t}</h3><p><code>{m} {u}</code></p>{g}{b}", { t = side[2], m = r.method, u = r.url, g = rows[1] and grid({ "Header", "Value" }, rows),
      b = r.body and r.body ~= "" and html("<pre>{t}</pre>", { t = forms.said(r.body) }) }) or ""
    v[side[1]] = nil
  end
  return html('<h2 id="tried">The request, tried against the draft</h2><p>Nothing was sent.{s}</p>{d}{p}{m}', { s = not said and " «name» stands where a secret would go.", d = said, p = parts,
    m = not judged and forms.members(v) }), args
end

-- The inputs of a trial, by the kind of policy.
local function trial(kind, form, to)
  local f = form or {}
  local function area(name, label, rows, help)
    return html('<label for="t-{n}">{l}</label><textarea id="t-{n}" name="{n}" rows="{r}" spellcheck="false" aria-describedby="t-{n}-help">\n{v}</textarea><small id="t-{n}-help">{h}</small>',
      { n = name, l = label, r = rows, v = f[name], h = help })
  end
  return html([[
<details{open}><summary>Try a request against this text</summary><div class="row"><label>Method<br><input name="method" value="{m}" size="8"></label>
<label>URL<br><input name="url" value="{u}" size="40" placeholder="https://api.example.com/v1/me"></label>{agent}</div>{fields}{headers}{body}
<p class="row"><button name="try" value="on" formaction="{to}#tried">Try it</button></p></details>]], { to = to, open = f.try and html " open", m = f.method or "GET", u = f.url,
    agent = kind ~= "type" and html('<label>Agent<br><input name="agent" value="{a}" size="12"></label>', { a = f.agent }),
    fields = kind ~= "match" and area("fields", "Fields", 2, kind == "type" and "One FIELD=VALUE a line; those of its first example unless named. No secret is needed." or "One FIELD=VALUE a line, as a rule of this type has them."),
    headers = area("headers", "Headers", 2, "One NAME: VALUE a line."), body = kind ~= "match" and area("body", "Body", 3, "As the agent would send it.") })
end

local TRIED = { type = true, rule = true, match = true }

-- The text with which a policy of that name begins: a copy of another one, or the manual's own rule or type | nil
local function begun(name, like)
  local manual = { ["a rule"] = "rule", ["a type"] = "start" }
  local text = manual[like] and require("cli.policy_manual").whole(manual[like]) or require("records").name(like or "") and require("policy_store").source(like)
  local pol = text and require("policy").compile(manual[like] and text:match('name%s*=%s*"([%l%d_]+)"') or like, text)
  if not pol then return nil end
  return (text:gsub("(%f[%w_]name%s*=%s*)([\"'])" .. pol.name .. "%2", ("%%1%%2%s%%2"):format(name), 1))
end

-- policies/NAME, of one that is there, or of a new one that begins as `like`.
local function policy(desk, name, form, query)
  if not require("policy").name_ok(name) then return nil end
  local got = ask(desk, "policy", "show", name)
  local new = got.error and (form or query.like) and require("policy_store").head(name)
  if new and new.version ~= 0 then new = nil end
  local first = new and not form and begun(name, query.like)
  if got.error and not (new and (form or first)) then return { status = 404, title = name, body = wrong(got), line = { "policy", "list" } } end
  local line = new and { "policy", "put", ("./%s.lua"):format(name) } or { "policy", "edit", name }
  local put, source, note, at_line, tried = false, not got.error and type(got.value) == "table" and got.value.text or first or "", nil, nil, nil
  local seen = new and "new" or require("host").sha256_hex(source):sub(1, 16)
  -- A type's defaults, a preset and what matches say where a secret goes: whoever holds the page must not. A rule sees none.
  local kept = bounds.is_rule(name)
  if new and not form and not bounds.is_rule(name, source, true) then note = html '<p class="note">It says where secrets go: it is written and tried here, and kept on the command line.</p>' end
  if form and form.keep and not bounds.is_rule(name, (form.source or ""):gsub("\r\n", "\n"), true) then
    note, source = html '<div class="warn" role="alert">This one says where secrets go: it is kept on the command line.</div>', form.source
  elseif form and form.keep and form.seen ~= seen then
    note = html '<div class="warn" role="alert">Somebody kept another version since you opened this page. Your text is below; kept again, it overwrites that.</div>'
    source = (form.source or ""):gsub("\r\n", "\n")
  elseif form and form.try then
    source = (form.source or ""):gsub("\r\n", "\n")
    local bad
    tried, line = try(desk, name, source, form)
    if not tried then bad, line = line, nil end
    if bad then note, at_line = fault(bad, source) end
  elseif form then
    source = (form.source or ""):gsub("\r\n", "\n")
    local verb = form.keep and "put" or "test"
    line = { "policy", verb, ("./%s.lua"):format(name) }
    local did = commands.run({ "policy", verb, name }, { home = desk.home, asked = desk.who, source = { name, source } })
    local said_ = type(did.value) == "table" and did.value
    local bad = did.error and (did.error.message .. "\n" .. (did.error.hint or "")) or nil
    if verb == "test" and said_ and said_[1] then bad = not said_[1].ok and tostring(said_[1].error) or nil end
    put = verb == "put" and not bad
    if put then seen, new = require("host").sha256_hex(source):sub(1, 16), nil end
    if bad then note, at_line = fault(bad, source) end
    note = note or html('<div class="note" role="status">{m}</div>',
        { m = verb == "put" and "Kept: it counts from the next request." or "Its examples pass. Nothing was changed." })
  end
  local draft = require("policy").compile(name, source)
  local kind = (draft or require("policy_store").load(name) or {}).kind or "rule"
  kept = kept or new and kind == "rule" or bounds.is_rule(name)
  local own, used = not require("sandbox").default_source(name), false
  for _, r in ipairs(kind == "rule" and ask(desk, "rule", "list").value or {}) do used = used or r.type == name end
  if put and kind == "rule" and not used then
    note = html('<div class="note" role="status">Kept: it counts from the next request, once a rule is of this type. {l}</div>', { l = link(desk, "do/rule/add", { { "o.type", name } }, "Add one") })
  end
  local version = (query.diff or ""):match("^%d+$")
  local rows, edited = {}, not new and ask(desk, "policy", "diff", name, version).value
  edited = type(edited) == "table" and edited.text or ""
  local before = edited:match("^%-%-%- [^\n]-%(([^\n]-)%)\n")
  for i, v in ipairs(not new and ask(desk, "policy", "history", name).value or {}) do
    rows[i] = { v.version, v.active and "in force" or "", ago(v.saved_at), v.note or "",
      not v.active and { kept and link(desk, "do/policy/use", { { "a1", name }, { "a2", tostring(v.version) } }, html('Use it<span class="skip">: {v}</span>', { v = v.version })) or "",
        html('{s}<a href="{base}policies/{n}?diff={v}#diff">What differs<span class="skip"> from {v}</span></a>', { s = kept and " ", base = desk.base, n = name, v = v.version }) } or "" }
  end
  local at = "policies/" .. name
  return { title = "Policy " .. name, line = line, body = html([[
{note}<form method="post" action="{base}{at}">{csrf}<input type="hidden" name="seen" value="{seen}">
<label for="source">Source</label>{editor}<p class="row"><button>Run its examples</button>{keep}</p>{says}{tries}</form>
{tried}{acts}{diff}{rows}]],
    { note = note or false, base = desk.base, at = at, csrf = desk.csrf(at), editor = editor(source, at_line), seen = seen, tried = tried,
    tries = TRIED[kind] and trial(kind, form, desk.base .. at),
    acts = not new and kind == "rule" and buttons { link(desk, "do/rule/add", { { "o.type", name } }, "Add a rule of this type", "button"),
      own and link(desk, "do/policy/remove", { { "a1", name } }, "Remove it", "button") or nil },
    says = not kept and html '<p class="dim">It says where secrets go, so a draft is tried here and kept on the command line.</p>',
    keep = kept and html '<button class="go" name="keep" value="on">Keep it</button>', name = name,
    diff = edited ~= "" and html('<h2 id="diff">What differs from {v}</h2><pre>{t}</pre>', { t = edited, v = before == "built in" and "the built-in one" or before or version })
      or version and html('<p id="diff" class="note">Version {v} is as the one in force.</p>', { v = version }),
    rows = not new and html("<h2>Versions</h2>{r}", { r = rows[1] and grid({ "Version", "State", "Kept", "Note", "" }, rows) or html "<p>The built-in one is in force.</p>" }) }) }
end

-- ---- what an agent gets, what a person is asked ----------------------------------------------------

-- The environment of an agent, with a token of its own, for each place where one pastes it.
local function environment(desk, query, form)
  local name = (form or query).agent or ""
  if not form then
    return { title = "Environment of " .. name, body = html([[
<p>Makes a token that ends after the time below, and shows the lines to paste, once.</p>
<form class="row" method="post" action="{base}environment">{csrf}<input type="hidden" name="agent" value="{n}">
<label>Ends after<br><input name="ttl" value="24h"></label><button class="go">Make it</button></form>]],
    { base = desk.base, csrf = desk.csrf "environment", n = name }), line = { "env", "--agent", name } }
  end
  local got = ask(desk, "env", "--agent=" .. name, "--ttl=" .. (form.ttl or "24h"))
  local line = { "env", "--agent", name, "--ttl", form.ttl or "24h" }
  if got.error or type(got.value) ~= "table" then return { status = 400, title = "Environment of " .. name, body = wrong(got), line = line } end
  local vars, env = {}, require "env"
  for k, v in pairs(got.value) do vars[#vars + 1] = { k, v } end
  table.sort(vars, function(a, b) return a[1] < b[1] end)
  local parts = { html("<h2>Shell</h2><pre>{t}</pre>", { t = env.text(vars, "sh") }) }
  for _, f in ipairs { { "docker", "Docker: a file for --env-file" }, { "systemd", "systemd: a file for EnvironmentFile=" } } do
    if not env.unfit(vars, f[1]) then parts[#parts + 1] = html("<h2>{h}</h2><pre>{t}</pre>",
      { h = f[2], t = env.text(vars, f[1]) }) end
  end
  parts[#parts + 1] = html("<h2>Claude Code: in settings.json</h2><pre>{t}</pre>",
    { t = require("json").encode({ env = got.value }, { indent = 2 }) })
  return { title = "Environment of " .. name, line = line,
    body = html('<p class="note" role="status">Shown this once: a token stands in these lines.</p>{parts}', { parts = parts }) }
end

local function titled_state(p) return p.state:gsub("^%l", string.upper) end

-- What an agent asks for: each service in words, a box to leave it out, and the secrets that it needs.
local function proposal(desk, id, form)
  local got = ask(desk, "proposal", "show", id)
  local p = got.value
  if got.error or type(p) ~= "table" then return { status = 404, title = "No such proposal", body = wrong(got), line = { "proposal", "list" } } end
  local at, note, labels = "proposals/" .. id, nil, require("granting").labels(require("proposals").named(id).record)
  if form then
    local args, typed = { "proposal", form.reject and "reject" or "approve", id }, {}
    if form.reject then
      if (form.reason or "") ~= "" then args[#args + 1] = "--reason=" .. form.reason end
    else
      local n = 0
      for i, s in ipairs(p.services) do
        if form["s." .. i] then
          n, args[#args + 1] = n + 1, "--only=" .. s.name
          local host = form["h." .. i]
          if host and host ~= "" and host ~= s.host then args[#args + 1] = ("--host=%s=%s"):format(s.name, host) end
          local path = form["p." .. i]
          if path and path ~= "" and path ~= s.path then args[#args + 1] = ("--path=%s=%s"):format(s.name, path) end
          local methods = (form["m." .. i] or ""):match("^%s*(.-)%s*$")
          if methods ~= "" then args[#args + 1] = ("--method=%s=%s"):format(s.name, methods) end
          for j, row in ipairs(s.substitutions or {}) do
            local place = form[("w.%d.%d"):format(i, j)] or ""
            if row.unnamed and place:find("%S") then args[#args + 1] = ("--place=%s=%s:%s"):format(s.name, row.placeholder, place) end
          end
        end
      end
      for key, kind in pairs(labels) do
        local value = form["k." .. key] or ""
        if value ~= "" then
          typed[key] = kind == "secret" and value or nil
          args[#args + 1] = key .. (kind == "secret" and "=-" or "=" .. value)
        elseif form["u." .. key] then args[#args + 1] = "--use=" .. key
        end
      end
      if n == 0 then note = html '<p class="warn" role="alert">No service is chosen.</p>' end
    end
    if not note then
      local did = commands.run(args, { home = desk.home, asked = desk.who, typed = typed })
      if not did.error then return { see = forms.keep(desk, commands.find("proposal " .. args[2]), args, did) } end
      note = html('<div class="warn" role="alert"><strong>{m}</strong></div>', { m = did.error.message })
    end
  end
  local services, inputs = {}, {}
  local waits = p.state == "pending"
  for i, s in ipairs(p.services) do
    local places = {}
    for j, row in ipairs(s.substitutions or {}) do
      local name = ("w.%d.%d"):format(i, j)
      if row.unnamed then places[#places + 1] = html([[<label for="{n}">Where {p} stands</label><input id="{n}" name="{n}" value="{v}" placeholder="{how}" spellcheck="false"
aria-describedby="{n}-help"><small id="{n}-help" class="warn">{says}.</small>]], { n = name, p = row.placeholder, v = form and form[name] or "", how = row.unnamed, says = row.says }) end
    end
    services[i] = not waits and html("<dt>{n}</dt><dd>{s}</dd>", { n = s.name, s = s.says }) or html([[
<fieldset><legend>{n}</legend><label class="on"><input type="checkbox" name="s.{i}" value="on"{on}> {says}</label>{warning}
{places}{narrow}</fieldset>]],
    { n = s.name, places = places, i = i, says = s.says, narrow = not s.remove and html([[<label for="h-{i}">Host</label><input id="h-{i}" name="h.{i}" value="{host}" spellcheck="false">
<label for="p-{i}">Below this path alone</label><input id="p-{i}" name="p.{i}" value="{path}" spellcheck="false">
<label for="m-{i}">With these methods alone</label><input id="m-{i}" name="m.{i}" value="{methods}" placeholder="{may}" spellcheck="false">]], { i = i, methods = form and form["m." .. i] or "", may = s.kind == "passthrough" and "GET, HEAD, OPTIONS" or "all; GET: reading alone", host = form and form["h." .. i] or s.host,
      path = form and form["p." .. i] or s.path or "" }), on = (not form or form["s." .. i]) and html " checked",
      warning = s.warning and html('<p class="warn">Careful: {w}.</p>', { w = s.warning }) })
  end
  local function input(name, label, help, kind)
    inputs[#inputs + 1] = html('<label for="{n}">{l}</label><input id="{n}" name="{n}" type="{k}" autocomplete="off" '
      .. 'aria-describedby="{n}-help"><small id="{n}-help">{h}</small>', { n = name, l = label, h = help, k = kind })
  end
  for _, c in ipairs(p.credentials) do
    local help = page.obtained(c)
    if c.oauth then
      if not c.oauth.client_id then input("k." .. c.key .. ".client_id", c.key .. ": client id", help, "text") end
      input("k." .. c.key .. ".client_secret", c.key .. ": client secret", html("Where the client has one. {h}", { h = help }),
        "password")
      input("k." .. c.key .. ".refresh_token", c.key .. ": refresh token",
        "To paste one that is there: it is tried at once. Without it you sign in to the account next.", "password")
      input("k." .. c.key .. ".access_token", c.key .. ": access token", "Alone it is used until it ends.", "password")
    else
      input("k." .. c.key, c.key, help, labels[c.key] == "plain" and "text" or "password")
      inputs[#inputs + 1] = c.value_sent and page.sent(c.key, c.value, form)
    end
  end
  return { status = note and 400 or 200, title = "Proposal of " .. p.agent, line = { "proposal", "show", id }, body = html([[
{note}<p>{words}</p><p class="dim">{state}{ends}. These are the agent's words: look at the host, not at them.</p>{form}]], { note = note,
    words = p.user_message or p.message or "It says nothing.", state = titled_state(p), ends = waits and html(", ends {t}", { t = ago(p.expires_at) }),
    form = waits and html([[<form method="post" action="{base}{at}">{csrf}{services}{inputs}<p class="row"><button class="go">Approve what is chosen</button></p></form>
<form class="row" method="post" action="{base}{at}">{csrf}<label>Why not<br><input name="reason"></label>
<button name="reject" value="on">Reject</button></form>]], { base = desk.base, at = at, csrf = desk.csrf(at),
      services = services, inputs = inputs }) or html("{m}<h2>{h}</h2><dl>{s}</dl>", { h = p.state == "applied" and "What was approved" or "What it asked for", m = forms.members { reason = p.reason, created = p.created }, s = services }) }) }
end

local answers = { { "Once", "once" }, { "For an hour", "hour" }, { "For a day", "day" }, { "Always", "always" } }
local stands = { open = "May this go out?", once = "Allowed once", denied = "Refused", hour = "Allowed for an hour", day = "Allowed for a day" }

-- A question of a rule, with the answers that it may still get.
local function question(desk, id)
  local got = ask(desk, "approval", "show", id)
  local q = got.value
  if got.error or type(q) ~= "table" then return { status = 404, title = "No such question", body = wrong(got), line = { "approval", "list" } } end
  local rows, open = {}, q.state == "open"
  for i, a in ipairs((open or q.state == "denied") and answers or {}) do
    rows[i] = html('<form method="post" action="{base}do/approval/allow">{csrf}'
      .. '<input type="hidden" name="a1" value="{id}"><input type="hidden" name="o.for" value="{v}"><button{go}>{t}</button></form>',
      { base = desk.base, csrf = desk.csrf "do/approval/allow", id = id, v = a[2], t = a[1],
        go = i == 1 and open and html ' class="go"' })
  end
  if q.state ~= "denied" then
    rows[#rows + 1] = html('<form method="post" action="{base}do/approval/deny">{csrf}<input type="hidden" name="a1" value="{id}"><button>{t}</button></form>',
      { base = desk.base, csrf = desk.csrf "do/approval/deny", id = id, t = open and "Refuse" or "Take the answer back" })
  end
  local saw = page.saw(q.saw)
  q.saw = nil
  return { title = stands[q.state] or q.state, line = open and { "approval", "allow", id, "--for=once" } or { "approval", "show", id }, body = html([[
<p><strong>{agent}</strong> {asks} <code>{method} {url}</code>, and the rule <strong>{rule}</strong> {wants} a person's word: {reason}</p>{saw}
{answered}<p>An hour, a day and always cover, for this agent: <strong>{covers}</strong></p>{rows}{members}]],
    { agent = q.agent, method = q.method, url = q.url, rule = q.rule, reason = q.reason, saw = saw, asks = open and "asks to send" or "asked to send", wants = open and "wants" or "wanted",
    answered = not open and html("<p>It was answered; the answer ends {t}.{a}</p>", { t = ago(q.expires_at), a = q.state == "denied" and " It can still be allowed." or "" }),
    covers = q.covers, rows = buttons(rows), members = forms.members(q) }) }
end

-- ---- the account of an OAuth credential ------------------------------------------------------------

-- What a sign-in to this account needs: env, opened | nil, why
local function account_of(desk, name)
  local connect = require "cli.authorization"
  local env, why = connect.env { home = desk.home, asked = desk.who, host = require "host", opened = true }
  local opened, code, detail
  if env then opened, code, detail = connect.open(env, name) end
  if not opened then return nil, why or tostring(detail or code) end
  if not opened.view.authorization_url then return nil, ("'%s' has no authorization_url: sallyport connect %s --device"):format(name, name) end
  return env, opened
end

-- Begins it: the link to the provider's page, whose answer comes to /callback here.
local function begin(desk, name, env, opened)
  local connect = require "cli.authorization"
  local asked = connect.ask(env, opened, { redirect_uri = desk.origin .. "/callback", scopes = (connect.scopes(env, opened)) })
  desk.asked = { till = desk.now() + CONSENT, asked = asked, env = env, opened = opened, name = name }
  return html('<a class="button go" rel="noreferrer" href="{u}">Open {h}</a>', {
    u = asked.url, h = asked.url:match("^https?://([^/?#]+)") or "the provider" })
end

--- The same as a piece of a page that says what was approved.
function M.consent(desk, name)
  local env, opened = account_of(desk, name)
  if not env then return html('<p class="warn" role="alert">{t}</p>', { t = opened }) end
  return html("<p>Next, sign in to the account of <strong>{n}</strong>. The provider has to know this address as a redirect URI: <code>{u}</code></p>{l}",
    { n = name, u = desk.origin .. "/callback", l = begin(desk, name, env, opened) })
end

-- GET and POST account/NAME
local function account(desk, name, form)
  if not require("records").name(name) then return nil end
  local record = require("store").peek("credential", name)
  if not record then return { status = 404, title = "Not there", body = html("<p>There is no credential {n}.</p>", { n = name }), line = { "credential", "list" } } end
  if not commands.signs_in(record.type) then return { status = 404, title = "Not there", line = { "credential", "show", name },
    body = html("<p>Nobody signs in for {c}: a credential of the type {t} has its secret already.</p>", { c = link(desk, "credentials/" .. name, nil, name), t = record.type }) } end
  local title, uri = "Sign in for " .. name, desk.origin .. "/callback"
  local env, opened = account_of(desk, name)
  if not env then return { status = 400, title = title, body = html('<p class="warn" role="alert">{t}</p>', { t = opened }) } end
  if not form then
    return { title = title, body = html([[
<p>The provider's own page asks you, and comes back here. It has to know this address as a redirect URI: <code>{uri}</code></p>
<form method="post" action="{base}account/{n}">{csrf}<button class="go">Go on</button></form>]],
      { uri = uri, base = desk.base, n = name, csrf = desk.csrf("account/" .. name) }), line = { "connect", name } }
  end
  return { title = title, line = { "connect", name }, body = html('<p>{l}</p><p class="dim">Come back to this window when it says that you may.</p>',
    { l = begin(desk, name, env, opened) }) }
end

--- The browser that comes back from the provider: { title, body }. It shows no session, for it comes from another site: the state that only
-- it and we know says whose answer it is, once.
function M.callback(desk, query)
  local waiting = desk.asked
  local function says(status, title, text) return { status = status, title = title, body = html("<p>{t}</p>", { t = text }) } end
  if not waiting or desk.now() > waiting.till then return says(404, "Nothing here",
    "This address waits for one answer of an authorization server.") end
  local connect, token = require "cli.authorization", require "token"
  local code, bad, detail = connect.judge(waiting.env, waiting.asked, query or "")
  if not code and (bad == "wrong_state" or bad == "malformed_callback") then return says(400, "Not connected",
    connect.say[bad]) end
  desk.asked = nil
  local answer, second, third
  if code then answer, second, third = connect.exchange(waiting.env, waiting.opened,
    connect.code_grant(waiting.asked, code)) else second, third = bad, detail end
  if answer then
    local who = desk.who or require("changes").process or {}
    local kept, trouble = commands.as({ by = who.by, door = "page", command = "connect", client = who.client }, function()
      return waiting.env.tokens:connected(waiting.opened, answer, second, waiting.asked.scopes)
    end)
    if not kept then answer, second, third = nil, trouble, nil end
  end
  if not answer then
    local text = second == "denied" and "the authorization server says " .. tostring(third) or connect.say[second]
      or token.sentence(second, third)
    return says(400, "Not connected", ("'%s' was not connected: %s. What was there before is as it was."):format(waiting.name,
      text))
  end
  return { title = "Connected", body = html('<p>The account is connected to <strong>{n}</strong>. {l}</p>',
    { n = waiting.name, l = link(desk, "credentials/" .. waiting.name, nil, "Go on") }) }
end

-- ---- the router ----------------------------------------------------------------------------------

local pages = { [""] = home, connect = connect, door = door, variables = variables, settings = settings, messages = messages, log = log, allow = allow, record = record,
  explain = explain, policies = policies, environment = environment }
local posts = { messages = true, settings = true, environment = true, variables = true, explain = true }
--- answer(desk, the path behind the session's, its query, the form of a POST | nil) -> { title, body, status?, see?, live? }, which
-- part of the bar | nil: there is no such page. Yields.
function M.answer(desk, rest, query, form)
  local first, second = rest:match("^([^/]*)/?(.*)$")
  if first == "do" then return forms.answer(desk, second:gsub("/", " "), query, form), forms.under(second:match("^%a*")) end
  if first == "done" then return forms.done(desk, second) end
  second = require("uri").decode(second) or ""
  if first == "policies" and second ~= "" then
    if form and #(form.source or "") > SOURCE_MAX then return nil end
    return policy(desk, second, form, query), "policies"
  end
  if first == "account" and second ~= "" then return account(desk, second, form), "credentials" end
  if first == "proposals" and second ~= "" then return proposal(desk, second, form), "approvals" end
  if form and not posts[first] then return nil end
  if first == "approvals" and second ~= "" then return question(desk, second), "approvals" end
  if lists[first] then
    local out = second == "" and { title = titled(first), line = { lists[first][1], "list" }, live = first == "approvals", again = query.live and 5 or nil,
      body = first ~= "approvals" and list_of(desk, first) or html("{l}{live}", { l = living(3, html("{a}<h2>Proposals of agents</h2>{p}",
        { a = list_of(desk, first), p = list_of(desk, "proposals") })),
      live = html("<noscript><p>{l}</p></noscript>",
        { l = query.live and link(desk, first, nil, again[2]) or link(desk, first, { { "live", "on" } }, again[1]) }) }) }
        or second ~= "" and item_page(desk, first, second, query)
    return out or nil, under[first] or first
  end
  local f = second == "" and pages[first]
  return f and f(desk, query, form), under[first] or first
end

return M
