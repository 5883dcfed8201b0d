--- sallyport nft: rules for nftables that bring agents' connections to a transparent listener.
local db = require "cli.db"
local home = require "cli.home"
local records = require "records"
local report = require "cli.report"

local RULES = [[
# Connections of agents to TCP %PORTS% come to Sallyport at %AT%; nothing else of theirs leaves by this machine.
# To load: nft -f FILE. To take away: nft delete table inet sallyport.
table inet sallyport
delete table inet sallyport
table inet sallyport {
%SETS%
	chain capture {
		type nat hook prerouting priority dstnat; policy accept;
%CAPTURE%
	}
	chain leave {
		type filter hook forward priority filter; policy accept;
%LEAVE%
	}
}
]]

-- The listener whose port the rules name: of the proxy that runs, else of the settings.
local function listener(ctx, port)
  if port then return { port = port, text = "port " .. port } end
  db.open(ctx)
  local running = home.running(ctx)
  for _, text in ipairs(records.settings(running and running.flags).transparent) do
    local l = records.listener(text)
    if l.port ~= 0 then return l end
  end
  report.fail("there is no transparent listener with a port of its own",
    "sallyport set transparent 0.0.0.0:7081, or --port N")
end

local function ports(list)
  local out = {}
  for i, text in ipairs(list or { "80", "443" }) do
    out[i] = records.port(text) or report.usage("--tcp is a port: --tcp 443 --tcp 8443")
  end
  return table.concat(out, ", ")
end

-- Whose connections: { match = nft's words, … }. Ranges of agents, and interfaces.
local function sources(ctx, opt)
  local ranges, out, v4, v6 = {}, {}, {}, {}
  for _, name in ipairs(opt.interface or {}) do
    if not name:find("^[%w._-]+%*?$") or #name > 15 then report.usage("--interface is the name of one: veth0") end
    out[#out + 1] = ('iifname "%s"'):format(name)
  end
  if not opt.interface then
    db.open(ctx)
    for range in pairs((require("store").peek("agent", require("doors").KEY) or {}).from or {}) do ranges[#ranges + 1] = range end
    table.sort(ranges)
  end
  for _, range in ipairs(ranges) do
    if not range:find("/", 1, true) then out[#out + 1] = ('iifname "%s"'):format(range)
    else table.insert(range:find(":", 1, true) and v6 or v4, range) end
  end
  local sets = {}
  for kind, list in pairs { ipv4 = v4, ipv6 = v6 } do
    if list[1] then
      sets[#sets + 1] = ("\tset agents_%s {\n\t\ttype %s_addr; flags interval; auto-merge\n\t\telements = { %s }\n\t}"):format(kind, kind, table.concat(list, ", "))
      out[#out + 1] = ("%s saddr @agents_%s"):format(kind == "ipv4" and "ip" or "ip6", kind)
    end
  end
  table.sort(sets)
  table.sort(out)
  if not out[1] then
    report.fail("no agent has a source address", "sallyport agent set AGENT --from 10.0.5.0/24, or --interface veth0")
  end
  return out, table.concat(sets, "\n")
end

local function run(_, opt, ctx)
  local port = opt.port and (records.port(opt.port) or report.usage("--port is a number from 1 to 65535"))
  local list, l = ports(opt.tcp), listener(ctx, port)
  local from, sets = sources(ctx, opt)
  local capture, leave = {}, {}
  for i, words in ipairs(from) do
    capture[i] = ("\t\t%s tcp dport { %s } redirect to :%d"):format(words, list, l.port)
    leave[i] = ("\t\t%s drop"):format(words)
  end
  local fill = { PORTS = list, AT = l.text, SETS = sets, CAPTURE = table.concat(capture, "\n"), LEAVE = table.concat(leave, "\n") }
  ctx.out((RULES:gsub("%%(%u+)%%", fill):gsub("{\n\n", "{\n")))
  if l.address and (l.address:find("^127%.") or l.address == "::1") then
    ctx.note(("note: redirected connections come to the address of the interface, which %s is not: 0.0.0.0:%d takes them"):format(l.text, l.port))
  end
  return 0
end

return {
  { words = "nft", max = 0, summary = "rules that redirect agents' connections to a transparent listener",
    options = {
      { name = "interface", arg = "NAME", many = true, help = "what comes in there; agents' source addresses unless named" },
      { name = "tcp", arg = "PORT", many = true, help = "connections to it; 80 and 443 unless named" },
      { name = "port", arg = "N", help = "the listener's port, where that is not set" },
    },
    help = [[
Prints rules for nftables, to be looked at and loaded by root: TCP connections of agents to ports 80 and 443 come to the
transparent listener, and nothing else of theirs is passed on by this machine. Agents are told by their source addresses
(`agent set A --from`), or by the interface. The machine must be their way out: their default route.

examples:
  sallyport set transparent 0.0.0.0:7081
  sallyport nft > /etc/nftables.d/sallyport.nft
  sallyport nft --interface veth0 --port 7081
]], run = run },
}
