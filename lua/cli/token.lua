--- sallyport token add, list, remove: tokens of the JSON API.
local db = require "cli.db"
local records = require "records"
local report = require "cli.report"
local terminal = require "cli.terminal"
local tokens = require "web.api_tokens"

local function all()
  local out = {}
  for key, r, damaged in db.each("meta", tokens.PREFIX) do
    out[#out + 1] = r or { name = key:sub(#tokens.PREFIX + 1), damaged = damaged }
  end
  return out
end

local function state(r, now)
  return r.damaged and "damaged" or r.expires_at and r.expires_at <= now and "expired" or "active"
end

local function shape(r, now, token)
  return { name = r.name, scopes = report.array(r.scopes), state = state(r, now), created = r.created, expires_at = r.expires_at,
    token = token }
end

local function scopes_of(given)
  local names, out = {}, {}
  for i, s in ipairs(tokens.scopes) do names[i] = s.name end
  for _, text in ipairs(given or {}) do
    local near = records.nearest(text, names)
    if near ~= text then
      report.usage(("there is no scope '%s'"):format(report.clean(text):sub(1, 40)), near and ("did you mean %s?"):format(near)
        or "scopes are " .. table.concat(names, ", "))
    end
    out[#out + 1] = text
  end
  if not out[1] then report.usage("a token has a scope: --scope " .. table.concat(names, "|"), "sallyport token add monitor --scope metrics") end
  return out
end

local function add(args, opt, ctx)
  local name, why = records.name(args[1])
  if not name then report.usage("NAME: " .. tostring(why)) end
  local scopes, now = scopes_of(opt.scope), require("time").wall()
  local seconds, wrong = nil, nil
  if opt.ttl then seconds, wrong = records.duration(opt.ttl) end
  if wrong then report.usage("--ttl: " .. wrong) end
  db.open(ctx)
  local token = tokens.MARK .. require("web.access").random()
  local plain = { name = name, scopes = scopes, hash = tokens.hash(token), created = now, expires_at = seconds and now + seconds or nil }
  db.change(function()
    local list = all()
    for _, r in ipairs(list) do
      if r.name == name then report.fail(("there is a token '%s' already"):format(name), "sallyport token remove " .. name) end
    end
    if #list >= tokens.MAX then report.fail(("there are %d tokens, and no more may be"):format(#list), "sallyport token list; sallyport token remove NAME") end
    return { { op = "put", db = "meta", key = tokens.PREFIX .. name, version = 0, plain = plain } }
  end)
  return report.once(ctx, shape(plain, now, token), "token", token)
end

local function list(_, _, ctx)
  db.open(ctx)
  local rows, out, now = {}, report.array(), require("time").wall()
  for i, r in ipairs(all()) do
    out[i] = shape(r, now)
    rows[i] = { r.name, table.concat(r.scopes or {}, ","), state(r, now), report.time(r.created) or "", report.time(r.expires_at) or "never" }
  end
  if ctx.json then
    ctx.out(report.json(out))
  elseif not rows[1] then
    ctx.note("There is no token of the JSON API yet: sallyport token add NAME --scope read")
  else
    ctx.out(terminal.columns(ctx, { "NAME", "SCOPES", "STATE", "MADE", "ENDS" }, rows))
  end
  return 0
end

local function remove(args, _, ctx)
  db.open(ctx)
  local key = tokens.PREFIX .. args[1]
  db.change(function()
    local found, names = false, {}
    for i, r in ipairs(all()) do
      found, names[i] = found or r.name == args[1], r.name
    end
    if not found then
      local near = records.nearest(args[1], names)
      report.fail(("there is no token '%s'"):format(report.clean(args[1])), near and ("did you mean %s?"):format(near) or "sallyport token list")
    end
    return { { op = "del", db = "meta", key = key } }
  end)
  ctx.note(("The token '%s' has ended."):format(args[1]))
  report.answer(ctx, { removed = report.array { args[1] } })
  return 0
end

return {
  { words = "token add", args = "NAME --scope SCOPE …", min = 1, max = 1, run = add, summary = "a token of the JSON API, printed once",
    options = {
      { name = "scope", arg = "SCOPE", many = true, help = "read, write, policy, operator or metrics" },
      { name = "ttl", arg = "TIME", help = "it ends after 24h, 90d, …; never unless named" },
    },
    help = [[
Programs show it to /api/v1 and /metrics: Authorization: Bearer sp_api_…. read sees lists, records and the log; write changes
what the page changes; policy changes policies, upstream-ca and connect-to; operator, beside write, changes people who are operators
or answer what agents ask, and makes such; metrics sees /metrics alone. write and policy see what read sees. sallyport help api says more.

examples:
  sallyport token add dashboard --scope read
  sallyport token add deploy --scope write,policy --ttl 90d
]] },
  { words = "token list", max = 0, run = list, summary = "tokens of the JSON API, never their text",
    help = "Lists tokens.\n\nexample:\n  sallyport token list\n" },
  { words = "token remove", args = "NAME", min = 1, max = 1, run = remove, summary = "it ends at once",
    help = "Ends a token at once.\n\nexample:\n  sallyport token remove dashboard\n" },
}
