--- sallyport webhook show, set, test, remove: where messages to the operator go (lua/webhook.lua), and `set webhook`, which is the same.
local db = require "cli.db"
local fields = require "cli.fields"
local records = require "records"
local report = require "cli.report"
local settings = require "cli.settings"
local terminal = require "cli.terminal"
local M = {}

local KEY, FORMAT, EVENTS = "set/webhook", "set/webhook-format", "set/webhook-events"

local function shape(record)
  local all = records.settings(nil)
  return { url = record.value, address = record.address, format = all.webhook_format, events = report.array(all.webhook_events) }
end

local function need()
  return db.peek("meta", KEY, "the setting webhook") or report.fail("there is no webhook", "sallyport webhook set https://HOST/…")
end

-- What somebody who holds the page, or a token of the API, must not do: have what is signed for one place go to another. Whoever knows
-- the secret that messages are signed with could do so anyway.
local function led(ctx, kept, given)
  if not ctx.page or not kept or given.secret then return end
  if given.url or given.target or given.address ~= nil then
    report.fail("the secret that messages are signed with is asked for again where their address changes; the command line changes it without",
      "send it along with the change")
  end
end

--- Keeps what is given, over what is kept: { url, target, secret, address, format, events }, each nil: as it was. address: "" takes it away.
-- texts: FIELD=VALUE of target and secret, and where `all` of address. -> the answer, the secret where one was made
function M.keep(ctx, given, texts, all)
  local kept, why = require("store").get("meta", KEY), nil
  if not kept then db.peek("meta", KEY, "the setting webhook") end       -- one that was changed on the disk ends the command
  for _, text in ipairs(texts) do
    local a
    a, why = fields.assignment(ctx, text)
    if not a or a.key then report.usage(why or "a field is given as FIELD=VALUE") end
    if a.name == "target" or a.name == "secret" then given[a.name] = fields.secret(ctx, a, a.name)
    elseif all and a.name == "address" and a.from == "literal" then given.address = a.value
    else report.usage(("a webhook takes its address and, perhaps, target=@FILE and secret=@FILE%s"):format(all and ", address=CIDR" or "")) end
  end
  local plain, core = { name = "webhook", value = kept and kept.value, address = kept and kept.address }, require "secret.core"
  local secrets = { target = kept and kept.secrets and kept.secrets.target, key = given.secret or kept and kept.secrets and kept.secrets.key }
  if given.url then
    local rest
    plain.value, rest = records.webhook(given.url)
    if not plain.value then report.usage("webhook: " .. rest) end
    secrets.target = core.of(rest)
    if all then plain.address = nil end
  end
  if not plain.value then report.usage("which address? https://HOST/…", "sallyport webhook set https://hooks.example.com/sallyport") end
  secrets.target = given.target or secrets.target
  if given.address then
    plain.address = nil
    if given.address ~= "" then plain.address, why = records.cidr(given.address) end
    if given.address ~= "" and not plain.address then report.usage("address: " .. why) end
  end
  led(ctx, kept, given)
  local made
  if not secrets.key then
    made = "sp_hook_" .. ctx.host.random_token("")
    secrets.key = core.of(made)
  end
  -- over what was read alone: somebody else's new address does not get the secret of before
  local ops = { { op = "put", db = "meta", key = KEY, version = kept and kept.version or 0, plain = plain, secrets = secrets } }
  for name, value in pairs { ["webhook-format"] = given.format or false, ["webhook-events"] = given.events or false } do
    if value then ops[#ops + 1] = { op = "put", db = "meta", key = "set/" .. name, plain = { name = name, value = settings.read(ctx, records.setting(name), value, name) } } end
  end
  db.change(function() return table.move(ops, 1, #ops, 1, {}) end)
  ctx.note(("%s is told from now on; sallyport help messages says what it gets."):format(plain.value))
  return shape(plain), made
end

--- The secret that was made, once.
function M.show_once(ctx, made)
  if not made then return end
  ctx.note("Messages are signed with this secret, shown this once:")
  ctx.out(made .. "\n")
end

local function set(args, opt, ctx)
  db.open(ctx)
  local url = args[1] and not args[1]:find("^%l+=") and args[1] or nil
  local out, made = M.keep(ctx, { url = url, address = opt.address, format = opt.format, events = opt.event }, table.move(args, url and 2 or 1, #args, 1, {}))
  out.secret = made
  report.answer(ctx, out)
  M.show_once(ctx, made)
  return 0
end

local function show(_, _, ctx)
  db.open(ctx)
  local o = shape(need())
  ctx.out(ctx.json and report.json(o) or terminal.columns(ctx, nil, { { "webhook", o.url }, { "behind it", "kept, and not shown" }, { "signed", "with a secret that is not shown" },
    { "address", o.address or "as the guard allows" }, { "format", o.format }, { "events", table.concat(o.events, ", ") } }))
  return 0
end

local function test(_, _, ctx)
  db.open(ctx)
  need()
  local all, trouble = require("cli.outside").configure(ctx)
  if not all then report.fail(trouble) end
  local ok, why = require("webhook").test(ctx.home)
  if not ok then report.fail(("the message was not taken: %s"):format(report.clean(why)), "sallyport help messages; nothing is tried again") end
  report.answer(ctx, { sent = true, url = shape(need()).url })
  ctx.note "The message was taken: it is signed, says that it is a test, and was sent once."
  return 0
end

local function remove(_, _, ctx)
  db.open(ctx)
  local was = need()
  db.change(function()
    local ops = {}
    for i, key in ipairs { KEY, FORMAT, EVENTS } do
      if i == 1 or db.peek("meta", key, "a setting") then ops[#ops + 1] = { op = "del", db = "meta", key = key } end
    end
    return ops
  end)
  ctx.note(("%s is told nothing any more."):format(was.value))
  report.answer(ctx, { removed = report.array { was.value } })
  return 0
end

local commands = {
  { words = "webhook show", max = 0, summary = "who is told what needs a person", run = show },
  { words = "webhook set", args = "[URL] [target=@FILE] [secret=@FILE]", min = 0, max = 3, summary = "tells an HTTPS address what needs a person", help = [[
Proposals, requests that wait, credentials that fail or end soon, agents that are refused in bursts: a message of each goes there,
signed. What is not named stays as it is. What stands behind the host is a secret, and so is target=@FILE, which takes it from a file, with
its slash. Without secret=@FILE one is made, and shown once. sallyport help messages says what is sent.

examples:
  sallyport webhook set https://hooks.example.com/sallyport --event proposal --event approval
  sallyport webhook set https://hooks.slack.com target=@slack-path.txt --format slack
  sallyport webhook set --format json
]], options = {
      { name = "format", arg = "FORMAT", of = { "json", "slack", "ntfy" }, help = "JSON, as Slack takes it, or plain text as ntfy does" },
      { name = "event", arg = "EVENT", of = records.webhook_events, many = true, help = "tells of this alone; else of all" },
      { name = "address", arg = "CIDR", help = "where it may resolve to, in your own network; '' takes that away" } }, run = set },
  { words = "webhook test", max = 0, summary = "sends it a message now, once, and says whether it was taken", run = test },
  { words = "webhook remove", max = 0, summary = "tells nobody any more", run = remove },
}
table.move(commands, 1, #commands, 1, M)

return M
