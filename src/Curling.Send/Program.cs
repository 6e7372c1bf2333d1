using Curling.Hosting.Options;
using Curling.Send;

return await CommandRunner.RunAsync(SenderCommands.Build(), "curling-send", args);
