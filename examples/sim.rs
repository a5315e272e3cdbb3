//! The simulated cTrader alone, for trying clients against it. Runs until Ctrl-C.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use mahspeccy_bridge::sim::{
    AccountSpec, CLIENT_ID, CLIENT_SECRET, PositionSpec, Side, Simulator, presets, raw,
};

/// Simulated cTrader: WebSocket and length-prefixed TCP, plain or TLS, on one port per environment.
#[derive(Debug, Parser)]
struct Args {
    /// Port of the demo environment; 0 = any.
    #[arg(long, default_value_t = 5035)]
    demo_port: u16,
    /// Port of the live environment; 0 = any.
    #[arg(long, default_value_t = 5045)]
    live_port: u16,
    /// Seed of prices and traders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ticks a second of every symbol.
    #[arg(long, default_value_t = 2.0)]
    ticks: f64,
    /// Writes the certificate authority to trust here.
    #[arg(long)]
    ca_file: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let busy = Duration::from_secs(5);
    let sim = Simulator::builder()
        .seed(args.seed)
        .ports(args.demo_port, args.live_port)
        .ticks_per_second(args.ticks)
        .account(presets::worked_account())
        .account(AccountSpec::new(1001).token("token-a").activity(busy))
        .account(
            AccountSpec::new(1002)
                .token("token-a")
                .live()
                .broker(presets::BETA)
                .currency("USD")
                .activity(busy),
        )
        .account(
            AccountSpec::new(1003)
                .token("token-b")
                .broker(presets::BETA)
                .currency("BTC")
                .money_digits(8)
                .balance(250_000_000)
                .position(PositionSpec::new(
                    501,
                    "BTCUSD",
                    Side::Buy,
                    10,
                    raw("66800"),
                )),
        )
        .start()
        .await?;
    if let Some(path) = &args.ca_file {
        std::fs::write(path, sim.ca_pem())?;
    }
    println!("demo  {}  {}", sim.demo_url(), sim.demo_tls_url());
    println!("live  {}  {}", sim.live_url(), sim.live_tls_url());
    println!("app   {CLIENT_ID} {CLIENT_SECRET}");
    for (account, token) in [
        (presets::WORKED_ACCOUNT, presets::WORKED_TOKEN),
        (1001, "token-a"),
        (1002, "token-a"),
        (1003, "token-b"),
    ] {
        println!("account {account} token {token} refresh refresh-{token}");
    }
    println!("ready");
    tokio::signal::ctrl_c().await
}
