--- sallyport explain
local db = require "cli.db"
local decision = require "cli.decision"
local door = require "cli.explain_door"
local guard = require "cli.guard"
local page = require "cli.page"
local records = require "records"
local report = require "cli.report"
local terminal = require "cli.terminal"

local LIST = require("errors").LIST

local function decision_line(d)
  if d.decision == "ask" then return ("ASK    a person; %s (%d) where nobody answers in time"):format(d.code, d.status) end
  if d.decision ~= "allow" then
    return ("DENY   %s%s"):format(d.code or "refused", d.status and (" (%d)"):format(d.status) or "")
  end
  if d.credential then return ("ALLOW  with the credential '%s'"):format(d.credential) end
  return "ALLOW  without a credential" .. (d.domain and (", by the domain entry %s"):format(d.domain) or "")
end

-- The hint that the agent gets, where it is one for the agent: what the operator can do about it instead.
local function operators_hint(d)
  if not d.hint or d.hint:sub(1, #LIST) ~= LIST then return d.hint end
  local scheme, authority = d.url:match("^(%a[%w+.-]*)://([^/?#]*)")
  authority = authority:match("[^@]*$")
  local port = tonumber(authority:match(":(%d+)$")) or (scheme == "http" or scheme == "ws") and 80 or 443
  local host = authority:gsub(":%d*$", "")
  local bundles = d.agent and (db.peek("agent", "a/" .. d.agent, "the agent " .. d.agent) or {}).bundles
  return ("sallyport domain add %s %s%s, or a credential for it"):format((bundles or { "default" })[1] or "BUNDLE", host,
    port ~= 443 and " --port " .. port or "")
end

local function readable(ctx, d, method, url)
  local width = terminal.width(ctx)
  local lines = { decision_line(d), ("       %s %s"):format(method, url) }
  for _, l in ipairs(d.door and door.lines(d.door) or {}) do lines[#lines + 1] = l[2] and ("%-6s %s"):format(l[1], l[2]) or nil end
  local function line(name, value)
    if value and value ~= "" then lines[#lines + 1] = ("%-6s %s"):format(name, width and page.fill(value, width, "       ") or value) end
  end
  line("agent", d.agent and d.agent .. (d.way and ("  (by its door: %s)"):format(d.way) or ""))
  line("bundle", d.bundle)
  line("why", d.message or d.decision == "allow" and d.reason or nil)
  line("note", d.note)
  line("dials", d.address)
  line("hint", operators_hint(d))
  line("taken", d.taken_off and "off: " .. table.concat(d.taken_off, ", "))
  for _, r in ipairs(d.rules or {}) do line("rule", ("%s (%s): %s"):format(r.name, r.type, r.says)) end
  if d.considered and #d.considered > 0 then
    lines[#lines + 1] = "\nconsidered:"
  end
  for i, l in ipairs(lines) do lines[i] = l:gsub("[^\n]+", report.clean) end
  lines[1] = lines[1]:gsub("^%u+", function(word) return terminal.paint(ctx, terminal.meaning(word), word) end)
  local rows = {}
  for i, c in ipairs(d.considered or {}) do rows[i] = { c.kind, c.name, c.bundle or "", c.why or "" } end
  return table.concat(lines, "\n") .. "\n" .. (rows[1] and terminal.columns(ctx, { "KIND", "NAME", "BUNDLE", "WHY" }, rows, nil, 2) or "")
end

-- { "Name: value" … } -> { name = value } | nil
local function fields_of(list)
  if not list or not list[1] then return nil end
  local out = {}
  for _, text in ipairs(list) do
    local name, value = text:match("^([^:%s]+):%s*(.-)%s*$")
    if not name or not require("http").field_name_ok(name) or not require("http").field_value_ok(value) then
      report.usage("a header is 'NAME: VALUE'", "--header 'Destination: /other'")
    end
    out[name] = value
  end
  return out
end

-- The body that is asked about | nil: there is none
local function body_of(ctx, given)
  if not given then return nil end
  local running = require("cli.home").running(ctx)
  return require("cli.files").body(ctx, given, records.settings(running and running.flags).body_max, "a body over body-max is not read: sallyport set body-max SIZE")
end

local function has_type(headers)
  for name in pairs(headers or {}) do
    if name:lower() == "content-type" then return true end
  end
  return false
end

-- Prints the decision d.
local function told(ctx, d, method, url)
  if ctx.json then
    d.try = operators_hint(d)         -- the hint is the agent's; `try` is what the operator can do
    d.method, d.url = method, url
    d.taken_off = d.taken_off and report.array(d.taken_off)
    if d.try == d.hint then d.try = nil end
    d.considered, d.rules = report.array(d.considered or {}), d.rules and report.array(d.rules)
    ctx.out(report.json(d))
  else
    ctx.out(readable(ctx, d, method, url))
  end
  return 0
end

-- Whose a connection is that comes by these doors, without a token: a name, or nil; and how it is said.
local function comes_as(ctx, opt)
  local home, doors, host = require "cli.home", require "doors", ctx.host
  local record, who = require("store").peek("agent", doors.KEY), nil
  if opt.via then
    local asked, why = records.listener(opt.via)
    if not asked then report.usage("--via: " .. why) end
    local running, at = home.running(ctx), opt.via:match("^[^,=]*")
    local all = records.settings(running and running.flags)
    for _, list in ipairs { running and running.listen or all.listen, all.listen_tls, all.transparent } do
      for _, text in ipairs(list) do
        if text:match("^[^,=]*") == at then who = records.listener(text) end
      end
    end
    if not who then report.fail(("nothing listens on %s"):format(report.clean(at)), "sallyport status names the listeners") end
    if who.agent then return who.agent, ("%s is bound to it"):format(at) end
    if who.path and not opt.uid then opt.uid = tostring(host.uid()) end
  end
  local said = opt.uid and "uid:" .. opt.uid or opt.from and "from:" .. opt.from
  if opt.uid and not opt.uid:find("^%d+$") then report.usage("--uid is a user's number") end
  if opt.from and not require("addr").parse(opt.from:match("^[^%%]*")) then report.usage("--from is an address, perhaps with the interface: 10.0.5.3%veth0") end
  if not said then return nil, "such a listener asks for a token" end
  return doors.agent(record, said), said:gsub("^uid:", "user ")
end

local function explain(args, opt, ctx)
  local method, why, advice = records.method(args[1])
  if not method then
    if args[1]:upper() ~= "TRACE" and args[1]:upper() ~= "CONNECT" then report.usage(why,
      "sallyport explain GET https://api.example.com/") end
    method = args[1]:upper()
  end
  if advice then ctx.note("note: " .. advice) end
  local url = args[2]
  if not url:find("^%a[%w+.-]*://") then
    report.usage("a URL has a scheme", ("sallyport explain %s https://%s"):format(method, report.clean(url)))
  end
  db.open(ctx)
  local way
  if opt.via or opt.from or opt.uid then
    if opt.agent then report.usage("--agent names the agent already: --via, --from and --uid find it") end
    opt.agent, way = comes_as(ctx, opt)
    if not opt.agent then report.fail("nobody: 407 agent_unknown, unless a token is shown (" .. way .. ")", "sallyport agent list; sallyport help doors") end
  end
  local agent, target, came = opt.agent, url, nil
  if opt.user or opt.tenant or opt.connection or opt.client or opt.key or opt.tool or opt.mcp then
    if agent then report.usage("a request through the door is a tenant's: --agent has no part in it") end
    local gateway
    came, gateway = door.judge(opt, method, url, ctx)
    agent, target = came.tenant, gateway.url
    if came.decision == "deny" then
      return told(ctx, { decision = "deny", code = came.code, status = came.status, reason = came.code, door = came, url = target }, method, url)
    end
    came.credential = gateway.credential
  elseif agent then
    db.need("agent", agent)
  end
  local headers, body = fields_of(opt.header), body_of(ctx, opt.body)
  if body and not has_type(headers) then ctx.note("note: this body has no Content-Type, by which rules know what it is: --header 'Content-Type: application/json'") end
  local d, trouble = decision.explain(nil, { agent = agent, method = method, url = target, headers = headers, body = body })
  if not d then report.usage(("that URL cannot be judged: %s"):format(tostring(trouble))) end
  d.door = came
  if came and came.credential and d.decision == "allow" and d.credential ~= came.credential then
    local codes = require("errors").codes.host_not_allowed
    d.decision, d.code, d.status, d.reason, d.credential = "deny", "host_not_allowed", codes[1], "host_not_allowed", nil
    d.message = ("this tenant does not hold the gateway's credential, '%s'"):format(came.credential)
  end
  if d.decision == "allow" and d.host and not d.echo then guard.last_word(ctx, d, opt.resolve) end
  d.way = way
  d.host, d.port, d.addresses, d.tls, d.exact = nil, nil, nil, nil, nil
  return told(ctx, d, method, url)
end

return {
  { words = "explain", args = "[--agent A | --via LISTENER | --from ADDR | --user U --tenant T | --key K] [--tool TOOL] [--header 'NAME: VALUE' …] [--body TEXT|@FILE|-] METHOD URL", min = 2, max = 2,
    summary = "what would happen to a request, and why",
    options = { { name = "agent", arg = "AGENT", help = "as this agent; else as one that holds every bundle" },
      { name = "user", arg = "USER", help = "through the door (URL: a gateway's address), as this person, who approved all" },
      { name = "tenant", arg = "TENANT", help = "and for this tenant" },
      { name = "client", arg = "CLIENT", help = "and by this client: as the connection that it has, if any" },
      { name = "connection", arg = "CONNECTION", help = "through the door, as this connection: with the scopes that it was given" },
      { name = "key", arg = "KEY", help = "through the door, as this key" },
      { name = "tool", arg = "TOOL", help = "the tool that is called" },
      { name = "mcp", arg = "METHOD", help = "another message: resources/read, prompts/get, tools/list" },
      { name = "via", arg = "LISTENER", help = "as whoever comes through it without a token: unix:PATH, 127.0.0.1:7090" },
      { name = "from", arg = "ADDR", help = "as whoever comes from there: 10.0.5.3, or 10.0.5.3%veth0" },
      { name = "uid", arg = "N", help = "as that user, through a Unix socket" },
      { name = "resolve", help = "look the host up, and judge its addresses as the proxy would" },
      { name = "header", arg = "FIELD", many = true, whole = true,
        help = "a field of the request: does it name a second place (Destination, x-amz-copy-source), is it taken off?" },
      { name = "body", arg = "TEXT|@FILE|-", empty = true, help = "the body, at most body-max: what do rules say that read it?" } },
    help = [[
Says which bundle, credential or domain entry decides about a request, and why the others do not. It runs the
code that decides in the proxy (policies/match.lua) on the store as it is now, and sends nothing. Of an
address it knows what the address guard says; of a name only with --resolve. METHOD may be WEBSOCKET for the upgrade.
Of a request that comes in at the door it says first who it is, what their role and the connection allow, and which
scopes the tool needs; then how the tenant's request goes out. A rule that reads the body is asked where --body says it (its
Content-Type with --header), and else named. What is counted, and whose key stands in a body, the running proxy alone knows.
It ends with 0 where it could say, whatever the answer is; --json has `decision`.

examples:
  sallyport explain --agent claude GET https://api.github.com/user
  sallyport explain --agent claude --json POST https://api.github.com/gists | jq .decision
  sallyport explain --user ada@example.org --tenant acme --tool create_page POST https://box.example.org/mcp/tools
  sallyport explain --header 'Content-Type: application/json' --body '{"model":"o1"}' POST https://api.openai.com/v1/responses
  sallyport explain --header 'x-amz-copy-source: /private/key' PUT https://s3.eu-west-1.amazonaws.com/public/key
]], run = explain },
}
